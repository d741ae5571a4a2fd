"""The CLINC150 world on the real data: what the base model has seen and what the traffic is made of."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from cascade.errors import ConfigError, InputError
from cascade.traffic import read_traffic
from lab.clinc150 import (
    EMBEDDER,
    FOLDER_VARIABLE,
    BaseModelConfig,
    Item,
    base_training_items,
    dataset_folder,
    load_dataset,
    normalise,
    prepare,
    traffic_rows,
    train_base_model,
    training_pairs,
    validation_items,
    words_of_like_meaning,
)
from lab.flagship_book import AnswerBook
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
    assert not {answer for _, answer in training_pairs(items, BaseModelConfig(variants=2), {})} & {
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


def test_traffic_depends_on_its_seed_alone(data, rows):
    assert traffic_rows(CONFIG, data, SEED) == rows
    assert traffic_rows(CONFIG, data, SEED + 1) != rows


def test_flagship_errs_in_three_of_a_hundred_answers(rows):
    book = AnswerBook({text: row["reference"] for text, row in zip(texts(rows), rows, strict=True)}, LAB.flagship)
    wrong = [book.answer(text).text != row["reference"] for text, row in zip(texts(rows), rows, strict=True)]
    assert sum(wrong) / len(wrong) == pytest.approx(0.03, abs=0.007)
    assert book.answer("a question of another data set").text == "oos"


def test_variants_change_words_and_keep_the_query_itself():
    item = Item("please tell me what the weather is like in rome today", "weather", "utility")
    config = BaseModelConfig(variants=60, word_dropout=0.2, word_replacement=0.5)
    pairs = training_pairs([item], config, {"weather": ["rain", "wind"]})
    variants = [messages[0]["content"] for messages, _ in pairs]
    assert variants[0] == item.text
    assert {answer for _, answer in pairs} == {"weather"}
    words = item.text.split()
    kept = sum(len(variant.split()) for variant in variants[1:]) / (59 * len(words))
    assert kept == pytest.approx(0.8, abs=0.06)
    seen = {word for variant in variants for word in variant.split()}
    assert seen == {*words, "rain", "wind"}
    assert training_pairs([item], config, {"weather": ["rain", "wind"]}) == pairs


def test_a_word_alone_is_never_dropped():
    pairs = training_pairs([Item("yes", "yes", "meta")], BaseModelConfig(variants=20, word_dropout=0.9), {})
    assert {messages[0]["content"] for messages, _ in pairs} == {"yes"}


def test_words_of_like_meaning_come_from_the_embedder():
    if not EMBEDDER.is_dir():
        pytest.skip(f"the public model minishlab/potion-base-4M is not at {EMBEDDER}")
    like = words_of_like_meaning(["rent a car", "the song xqzv"], EMBEDDER, n=4)
    assert "vehicle" in like["car"]
    assert "music" in like["song"]
    assert "car" not in like["car"]
    assert not {"a", "xqzv"} & like.keys()
    assert all(len(words) <= 4 for words in like.values())


def test_absent_embedder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="potion-base-4M"):
        words_of_like_meaning(["rent a car"], tmp_path)


def test_prepare_makes_the_files_once(data, tmp_path, monkeypatch):
    trained = []

    def train(items, config, folder):
        trained.append(len(items))
        folder.mkdir(parents=True)

    monkeypatch.setattr("lab.clinc150.train_base_model", train)
    lab = LAB.model_copy(update={"seed": SEED})
    files = prepare(lab, tmp_path / "one")
    written = files.traffic_path.stat().st_mtime_ns
    assert prepare(lab, tmp_path / "one") == files
    assert files.traffic_path.stat().st_mtime_ns == written
    other = prepare(lab.model_copy(update={"seed": SEED + 1}), tmp_path / "two")
    assert other.traffic_path.name != files.traffic_path.name
    assert other.base_model_path == files.base_model_path
    assert trained == [10_500]
    answers = [json.loads(line) for line in files.answers_path.read_text().splitlines()]
    traffic = [json.loads(line) for line in files.traffic_path.read_text().splitlines()]
    assert [row["content"] for row in answers] == texts(traffic)


def test_base_model_learns_and_loads_like_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr("lab.clinc150.words_of_like_meaning", lambda texts, embedder: {})
    intents = {"play a song": "music", "how long is the drive": "distance", "wake me at six": "alarm", "hi": "greeting"}
    items = [Item(text, intent, "home") for text, intent in intents.items()]
    config = BaseModelConfig(
        hidden_size=32, intermediate_size=64, layers=1, heads=2, vocabulary=300, variants=16, learning_rate=1e-2,
        batch_size=4,
    )  # fmt: skip
    train_base_model(items, config, tmp_path / "base")
    record = json.loads((tmp_path / "base" / "training.json").read_text())
    assert record["loss"][-1] < 0.7 * record["loss"][0]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert model.num_parameters() == record["parameters"]
    assert AutoTokenizer.from_pretrained(tmp_path / "base").chat_template


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
