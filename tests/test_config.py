"""Settings are strict, and a wrong one is named with its value."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cascade.errors import ConfigError
from flows.config import build_config, merge, read_yaml
from flows.world import NOT_STARTED, open_config

ROOT = Path(__file__).parent.parent


def values() -> dict[str, Any]:
    found = read_yaml(ROOT / "configs/demo.yaml")
    found.pop("lab")
    return merge(NOT_STARTED, found)


def test_the_demo_configuration_round_trips() -> None:
    config = build_config(values(), "demo.yaml")
    assert build_config(config.dump(), "again") == config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"budgets_usd": 3}, "budgets_usd"),
        ({"budget_usd": 0}, r"budget_usd: .*greater than 0.*value seen: 0"),
        ({"train": {"rank": "many"}}, r"train.rank: .*'many'"),
        ({"window": {"pool": 0.8, "calibration": 0.19}}, "leave at least 0.05"),
        ({"gate": {"quality_margin": -1}}, "gate.quality_margin"),
        ({"traces": "postgresql://ana:secret@host/db"}, r"traces: .*set PGPASSWORD[^:]*$"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_config(merge(values(), change), "demo.yaml")


@pytest.mark.parametrize(("text", "said"), [("a: [", "not valid YAML"), ("- a", "not a mapping")])
def test_a_broken_file_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_yaml(tmp_path / "none.yaml")


def test_a_wrong_lab_setting_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({**read_yaml(ROOT / "configs/demo.yaml"), "lab": {"world": "shop", "sede": 1}}))
    with pytest.raises(ConfigError, match=r"lab\.sede"), open_config(path):
        pass


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    found = read_yaml(path)
    if "prices" in found and isinstance(found["prices"], dict):
        return
    found.pop("lab", None)
    build_config(merge(NOT_STARTED, found), path.name)
