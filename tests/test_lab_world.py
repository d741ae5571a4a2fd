"""Opening the shop world end to end: files, models and a flagship that answers its traffic."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from lab.files import read_jsonl
from lab.traffic import TrafficConfig
from lab.world import LabConfig, open_world


def test_the_flagship_of_a_world_knows_the_gold_answers_of_its_traffic(tmp_path: Path) -> None:
    config = LabConfig(folder=tmp_path, traffic=TrafficConfig(early_queries=20, drifted_queries=40))
    with open_world(config) as world:
        rows = read_jsonl(world.traffic_path)
        body = {"model": world.flagship_model, "messages": rows[-1]["messages"]}
        reply = httpx.post(f"{world.flagship_url}/chat/completions", json=body, trust_env=False).json()
        assert reply["choices"][0]["message"]["content"] == rows[-1]["reference"]
        assert (world.base_model_path / "config.json").exists()
        assert (world.embedder_path / "modules.json").exists()
        before = world.traffic_path.read_bytes()
    assert len(read_jsonl(world.ledger_path)) == 1
    with open_world(config) as world:
        assert world.traffic_path.read_bytes() == before


def test_missing_models_and_unknown_settings_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"python -m lab\.build"),
        open_world(LabConfig(folder=tmp_path, models=tmp_path / "none")),
    ):
        pass
    with pytest.raises(ValidationError):
        LabConfig.model_validate({"word": "shop"})
