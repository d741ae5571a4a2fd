"""The BANKING77 world: what the base model has seen and what the traffic is made of."""

import csv
from collections import Counter
from pathlib import Path

import pytest
import yaml

from cascade.errors import ConfigError, InputError
from lab.banking77 import FOLDER_VARIABLE, choices, dataset_folder, load_dataset
from lab.intents import base_training_items, by_digest, normalise, traffic_rows, validation_items
from lab.world import LabConfig

SETTINGS = yaml.safe_load((Path(__file__).parents[1] / "configs" / "banking77.yaml").read_text())
LAB = LabConfig.model_validate(SETTINGS["lab"])
SEED = 11
NEW = ("lost_card", "top_up")


@pytest.fixture(scope="module")
def data():
    if not dataset_folder().is_dir():
        pytest.skip(f"the public data set banking77 is not at {dataset_folder()}: set {FOLDER_VARIABLE} to its folder")
    return load_dataset(dataset_folder(), LAB.new)


@pytest.fixture(scope="module")
def rows(data):
    return traffic_rows(LAB.traffic, data, SEED)


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "category"), *rows])


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    intents = ("change_pin", "lost_card", "refund?", "top_up")
    write(tmp_path / "train.csv", [(f'\n{name}, "number" {i}', name) for i in range(5) for name in intents])
    write(tmp_path / "test.csv", [(f"{name} test {i}", name) for i in range(2) for name in intents])
    return tmp_path


def test_each_intents_training_queries_are_halved_whatever_their_order(tiny: Path):
    data = load_dataset(tiny, NEW)
    assert data.domains == ("change_pin", "lost_card", "refund?", "top_up")
    assert Counter(item.intent for item in base_training_items(data)) == {"change_pin": 3, "refund?": 3}
    assert Counter(item.intent for item in validation_items(data)) == {"change_pin": 2, "refund?": 2}
    halves = {split: {item.text for item in data.splits[split]} for split in ("train", "val")}
    assert len(halves["train"] | halves["val"]) == 20
    assert 'top_up, "number" 4' in halves["train"] | halves["val"]
    with (tiny / "train.csv").open(encoding="utf-8", newline="") as file:
        found = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    write(tiny / "train.csv", found[::-1])
    again = load_dataset(tiny, NEW)
    assert again.splits["train"] == data.splits["train"]
    assert again.digest == data.digest


def test_changed_data_is_another_data_set(tiny: Path):
    before = load_dataset(tiny, NEW).digest
    write(tiny / "test.csv", [("where is my refund", "refund?")])
    assert load_dataset(tiny, NEW).digest != before


def test_absent_and_damaged_files_are_named(tiny: Path):
    with pytest.raises(ConfigError, match=r"lab\.new is 'final': give default or development, or a list of BANKING77"):
        load_dataset(tiny, "final")
    for content, said in [
        (b"text,category\nwhere,\n", r"test\.csv is not BANKING77's"),
        (b"query,label\nwhere,refund?\n", r"test\.csv is not BANKING77's"),
        (b"", r"test\.csv is not BANKING77's"),
        (b"text,category\n\xff,refund?\n", r"test\.csv is not CSV in UTF-8"),
        (b'text,category\n"where,refund?\n', r"test\.csv is not CSV in UTF-8"),
        (b"text,category\nwhere,loan\n", "has the intent 'loan' and train.csv has not"),
    ]:
        (tiny / "test.csv").write_bytes(content)
        with pytest.raises(InputError, match=said):
            load_dataset(tiny, NEW)
    (tiny / "test.csv").unlink()
    with pytest.raises(ConfigError, match=r"no test\.csv.*banking77.*BANKING77_FOLDER"):
        load_dataset(tiny, NEW)


def test_choices_follow_the_digests_and_are_disjoint(data):
    named = choices(data.domains)
    assert len(data.domains) == 77
    assert [len(set(names)) for names in named.values()] == [25, 25]
    assert (*named["default"], *named["development"]) == tuple(by_digest(data.domains)[:50])
    assert data.new == load_dataset(dataset_folder()).new == tuple(sorted(named["default"]))
    assert load_dataset(dataset_folder(), "development").new == tuple(sorted(named["development"]))
    assert named["default"][0] == "extra_charge_on_statement"


def test_base_model_learns_half_of_the_known_intents_training_file(data):
    items, held = base_training_items(data), validation_items(data)
    assert len({item.intent for item in items}) == 52
    assert (len(items), len(held)) == (3380, 3349)
    assert not {item.intent for item in items + held} & set(data.new)


def test_traffic_is_unseen_and_holds_new_and_known_intents_alike(data, rows):
    trained = {normalise(item.text) for item in base_training_items(data)}
    served = [normalise(row["messages"][0]["content"]) for row in rows]
    assert len(set(served)) == len(served) == 6800
    assert not trained & set(served)
    assert not any(row["tags"]["new"] for row in rows[:800])
    later = [row for row in rows if row["tags"]["week"] > 1]
    new = Counter(row["reference"] for row in later if row["tags"]["new"])
    known = Counter(row["reference"] for row in later if not row["tags"]["new"])
    assert (len(new), len(known)) == (25, 52)
    assert new.total() / 25 == pytest.approx(known.total() / 52, rel=0.01)
    gold = {item.text: item.intent for split in data.splits.values() for item in split}
    assert all(row["reference"] == gold[row["messages"][0]["content"]] for row in rows)


def test_development_choice_has_as_much_traffic(data):
    rows = traffic_rows(LAB.traffic, load_dataset(dataset_folder(), "development"), SEED)
    assert len(rows) == 6800
    assert not {row["reference"] for row in rows if row["tags"]["new"]} & set(data.new)
