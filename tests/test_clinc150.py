"""The CLINC150 world on the real data: what the base model has seen and what the traffic is made of."""

import hashlib
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from cascade.errors import ConfigError, InputError
from cascade.traffic import read_traffic
from lab.clinc150 import CHOICES, FOLDER_VARIABLE, dataset_folder, load_dataset
from lab.flagship_book import AnswerBook
from lab.intent_model import BaseModelConfig, training_pairs
from lab.intents import base_model_folder, base_training_items, normalise, traffic_rows, validation_items
from lab.traffic import TrafficConfig
from lab.world import LabConfig

SETTINGS = yaml.safe_load((Path(__file__).parents[1] / "configs" / "clinc150.yaml").read_text())
LAB = LabConfig.model_validate(SETTINGS["lab"])
CONFIG = LAB.traffic
NEW = {"credit_cards", "travel", "work"}
SEED = 11


@pytest.fixture(scope="module")
def data():
    if not dataset_folder().is_dir():
        pytest.skip(f"the public data set clinc_oos is not at {dataset_folder()}: set {FOLDER_VARIABLE} to its folder")
    return load_dataset(dataset_folder())


@pytest.fixture(scope="module")
def rows(data):
    return traffic_rows(CONFIG, data, SEED)


def texts(rows):
    return [row["messages"][0]["content"] for row in rows]


def test_base_model_learns_known_domains_of_the_training_split_only(data):
    items = base_training_items(data)
    assert len(items) == 105 * 100
    assert len({item.intent for item in items}) == 105
    assert not NEW & {item.domain for item in items}
    assert set(items) <= set(data.splits["train"])
    assert not {answer for _, answer in training_pairs(items, BaseModelConfig(variants=2), {}, "clinc150")} & {
        item.intent for item in data.splits["train"] if item.domain in NEW
    }


def test_traffic_and_base_training_share_no_query(data, rows):
    trained = {normalise(item.text) for item in base_training_items(data)}
    served = [normalise(text) for text in texts(rows)]
    assert not trained & set(served)
    assert len(set(served)) == len(served)


def test_known_queries_come_from_validation_and_test(data, rows):
    allowed = {item.text for split in ("val", "test") for item in data.splits[split]}
    assert {row["messages"][0]["content"] for row in rows if not row["tags"]["new"]} <= allowed


def test_validation_of_the_base_model_is_apart_from_its_training(data):
    items = validation_items(data)
    assert len(items) == 105 * 20
    assert not NEW & {item.domain for item in items}


def test_first_week_is_known_and_later_weeks_hold_all_domains_equally(data, rows):
    early = [row for row in rows if row["tags"]["week"] == 1]
    later = [row for row in rows if row["tags"]["week"] > 1]
    assert len(early) == 800
    assert not any(row["tags"]["new"] for row in early)
    domains = Counter(row["tags"]["domain"] for row in later)
    assert domains.pop("oos") == 480
    assert set(domains) == set(data.domains)
    assert set(domains.values()) == {552}
    for week in (2, 3, 4):
        new = [row["tags"]["new"] for row in later if row["tags"]["week"] == week]
        assert sum(new) / len(new) == pytest.approx((3 * 552 + 480) / 6000, abs=0.04)


def test_rows_are_ordered_usable_and_carry_the_gold_intent(data, rows, tmp_path):
    assert all(first["time"] <= second["time"] for first, second in pairwise(rows))
    gold = {item.text: item.intent for split in data.splits.values() for item in split}
    assert all(row["reference"] == row["tags"]["skill"] == gold[row["messages"][0]["content"]] for row in rows)
    path = tmp_path / "traffic.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_traffic(path)
    assert [query.id for query in read.queries] == [row["id"] for row in rows]
    assert not read.rejected


def test_base_model_and_traffic_are_those_of_the_published_figures(data, rows, tmp_path):
    assert base_model_folder(data, tmp_path).name == "clinc150-base-982b08d32473cc34"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "15f8d9860d48a1fd2105aefb488ee3af62aa71b6491eb24f011e2eca2eab427d"
    )


def test_other_domains_can_be_new(data):
    listed = load_dataset(dataset_folder(), ("work", "banking"))
    assert listed.new == ("banking", "work")
    assert {item.domain for item in base_training_items(listed)} == set(data.domains) - {"banking", "work"}
    new = {row["tags"]["domain"] for row in traffic_rows(CONFIG, listed, SEED) if row["tags"]["new"]}
    assert new == {"banking", "work", "oos"}
    development = load_dataset(dataset_folder(), "development")
    assert development.new == CHOICES["development"]
    assert not set(development.new) & set(data.new)
    with pytest.raises(ConfigError, match=r"lab\.new names 'money', which is not among CLINC150's domains: auto_and"):
        load_dataset(dataset_folder(), ("money",))


def test_traffic_depends_on_its_seed_alone(data, rows):
    assert traffic_rows(CONFIG, data, SEED) == rows
    assert traffic_rows(CONFIG, data, SEED + 1) != rows


def test_flagship_errs_in_three_of_a_hundred_answers(rows):
    book = AnswerBook({text: row["reference"] for text, row in zip(texts(rows), rows, strict=True)}, LAB.flagship)
    wrong = [book.answer(text).text != row["reference"] for text, row in zip(texts(rows), rows, strict=True)]
    assert sum(wrong) / len(wrong) == pytest.approx(0.03, abs=0.007)
    assert book.answer("a question of another data set").text == "oos"


def test_absent_data_set_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"clinc_oos.*CLINC150_FOLDER"):
        load_dataset(tmp_path)


def test_damaged_data_set_is_refused(tmp_path):
    (tmp_path / "data_full.json").write_text('{"train": [')
    (tmp_path / "domains.json").write_text("{}")
    with pytest.raises(InputError, match="not JSON"):
        load_dataset(tmp_path)
    (tmp_path / "data_full.json").write_text('{"train": [["a", "b"]], "val": [], "test": []}')
    with pytest.raises(InputError, match="not CLINC150"):
        load_dataset(tmp_path)


def test_more_traffic_than_there_are_queries_is_refused(data):
    with pytest.raises(InputError, match="more queries of"):
        traffic_rows(TrafficConfig(early_queries=20_000), data, SEED)
