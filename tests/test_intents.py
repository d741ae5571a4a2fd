"""Worlds of real queries: varied training queries, what is new, shares of the traffic, files made once."""

import json
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from cascade.errors import ConfigError, InputError
from lab.files import read_jsonl
from lab.intent_model import EMBEDDER, BaseModelConfig, Item, train_base_model, training_pairs, words_of_like_meaning
from lab.intents import IntentData, base_training_items, choose_new, prepare_world, traffic_rows
from lab.traffic import TrafficConfig
from lab.world import LabConfig

TINY = BaseModelConfig(
    hidden_size=32, intermediate_size=64, layers=1, heads=2, vocabulary=300, variants=8, learning_rate=1e-2,
    batch_size=4, word_replacement=0.0,
)  # fmt: skip
SIZES = {"play": 40, "alarm": 20, "drive": 12, "greet": 8}
TRAFFIC = TrafficConfig(early_queries=8, drifted_queries=24, new_share=0.25, out_of_scope_share=0.0, users=5)


def world(new: tuple[str, ...] = ("drive", "greet"), even: bool = False) -> IntentData:
    """Each domain is one intent; a quarter of its queries is for the base model."""
    items = {name: [Item(f"{name} number {i}", name, name) for i in range(n)] for name, n in SIZES.items()}
    splits = {
        "train": tuple(item for rows in items.values() for item in rows[: len(rows) // 4]),
        "val": tuple(item for rows in items.values() for item in rows[len(rows) // 4 :]),
        "test": (),
        "oos": (),
    }
    return IntentData("tiny", "desk", splits, tuple(SIZES), new, even, "digest")


def domains(rows, new: bool) -> Counter:
    return Counter(row["tags"]["domain"] for row in rows if row["tags"]["new"] == new)


def test_domains_come_as_often_as_they_have_queries_or_evenly():
    by_size = traffic_rows(TRAFFIC, world(), seed=1)
    # 26 known queries, of pools of 30 and 15; 6 new ones, of 12 and 8 (nothing new was kept for the base)
    assert domains(by_size, new=False) == {"play": 5 + 12, "alarm": 3 + 6}
    assert domains(by_size, new=True) == {"drive": 4, "greet": 2}
    evenly = traffic_rows(TRAFFIC, world(even=True), seed=1)
    assert domains(evenly, new=False) == {"play": 13, "alarm": 13}
    assert domains(evenly, new=True) == {"drive": 3, "greet": 3}


def test_known_queries_are_none_of_the_base_models_and_new_ones_come_late():
    data = world()
    rows = traffic_rows(TRAFFIC, data, seed=1)
    trained = {item.text for item in base_training_items(data)}
    assert {item.intent for item in base_training_items(data)} == {"play", "alarm"}
    served = [row["messages"][0]["content"] for row in rows]
    assert len(set(served)) == len(served) == 32
    assert not trained & set(served)
    assert {row["tags"]["week"] for row in rows[:8]} == {1}
    assert not any(row["tags"]["new"] for row in rows[:8])
    assert {row["route"] for row in rows} == {"desk"}


@pytest.mark.parametrize(
    "traffic",
    [TRAFFIC.model_copy(update={"drifted_queries": 200}), TRAFFIC.model_copy(update={"out_of_scope_share": 0.1})],
)
def test_more_traffic_than_there_are_queries_is_refused(traffic):
    with pytest.raises(InputError, match=r"more queries of .* lower early_queries, drifted_queries or a share"):
        traffic_rows(traffic, world(), seed=1)


def test_what_is_new_is_chosen_by_name_or_list():
    choices = {"default": ("greet", "drive"), "development": ("alarm",)}
    names = tuple(SIZES)

    def chosen(wanted):
        return choose_new(wanted, choices, names, "tiny intents")

    assert chosen(None) == chosen("default") == chosen(["drive", "greet", "drive"]) == ("drive", "greet")
    assert chosen("development") == ("alarm",)
    for wanted, said in [
        ("greet", "lab.new is 'greet': give default or development, or a list of tiny intents"),
        (["gret"], "lab.new names 'gret', which is not among tiny intents: alarm, drive, greet, play"),
        ([], "names 0 of 4 tiny intents"),
        (names, "names 4 of 4 tiny intents"),
    ]:
        with pytest.raises(ConfigError, match=said):
            chosen(wanted)


def test_the_shop_has_no_choice():
    with pytest.raises(ValidationError, match=r"leave lab\.new out"):
        LabConfig.model_validate({"world": "shop", "new": ["returns"]})
    assert LabConfig.model_validate({"world": "clinc150", "new": ["work"]}).new == ("work",)
    assert LabConfig.model_validate({"world": "banking77", "new": "development"}).new == "development"


def test_each_choice_has_a_folder_and_so_a_ledger_of_its_own():
    def home(new):
        return LabConfig(world="banking77", seed=3, new=new).home

    assert home(None) == home("default") == Path(".lab/banking77-3")
    assert home(("a", "b")) == home(("b", "a"))
    homes = {home(None), home("development"), home(("a", "b")), home(("a",)), LabConfig(world="banking77", seed=4).home}
    assert len(homes) == 5
    assert {path.parent for path in homes} == {Path(".lab")}


def test_files_are_made_once_and_the_base_model_is_shared(tmp_path: Path):
    lab = LabConfig(world="banking77", traffic=TRAFFIC, seed=3)
    files = prepare_world(world(), lab, tmp_path / "one", TINY)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert prepare_world(world(), lab, tmp_path / "one", TINY) == files
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == written
    other = prepare_world(world(), lab.model_copy(update={"seed": 4}), tmp_path / "two", TINY)
    assert other.traffic_path.name != files.traffic_path.name
    assert other.base_model_path == files.base_model_path
    development = prepare_world(world(("alarm",)), lab, tmp_path / "one", TINY)
    assert development.traffic_path.name != files.traffic_path.name
    assert development.base_model_path.name != files.base_model_path.name
    answers, traffic = read_jsonl(files.answers_path), read_jsonl(files.traffic_path)
    assert answers == [{"content": row["messages"][0]["content"], "answer": row["reference"]} for row in traffic]


def test_base_model_learns_and_loads_like_any_other(tmp_path: Path):
    intents = {"play a song": "music", "how long is the drive": "distance", "wake me at six": "alarm", "hi": "greeting"}
    items = [Item(text, intent, "home") for text, intent in intents.items()]
    train_base_model(items, TINY.model_copy(update={"variants": 16}), tmp_path / "base", "tiny")
    record = json.loads((tmp_path / "base" / "training.json").read_text())
    assert record["loss"][-1] < 0.7 * record["loss"][0]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert model.num_parameters() == record["parameters"]
    assert AutoTokenizer.from_pretrained(tmp_path / "base").chat_template


def test_variants_change_words_and_keep_the_query_itself():
    item = Item("please tell me what the weather is like in rome today", "weather", "utility")
    config = BaseModelConfig(variants=60, word_dropout=0.2, word_replacement=0.5)
    pairs = training_pairs([item], config, {"weather": ["rain", "wind"]}, "tiny")
    variants = [messages[0]["content"] for messages, _ in pairs]
    assert variants[0] == item.text
    assert {answer for _, answer in pairs} == {"weather"}
    words = item.text.split()
    kept = sum(len(variant.split()) for variant in variants[1:]) / (59 * len(words))
    assert kept == pytest.approx(0.8, abs=0.06)
    seen = {word for variant in variants for word in variant.split()}
    assert seen == {*words, "rain", "wind"}
    assert training_pairs([item], config, {"weather": ["rain", "wind"]}, "tiny") == pairs


def test_a_word_alone_is_never_dropped():
    pairs = training_pairs([Item("yes", "yes", "meta")], BaseModelConfig(variants=20, word_dropout=0.9), {}, "tiny")
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
