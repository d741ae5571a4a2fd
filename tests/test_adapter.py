from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from cascade.errors import StageError
from finetune.adapter import adapter_digest, load_adapter_record


@pytest.fixture
def adapter(tmp_path):
    save_file({"a": torch.arange(4.0), "b": torch.ones(2, 2)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, "base_model_name_or_path": "x"}))
    return tmp_path


def finish(folder):
    record = {"base_model": "x", "digest": adapter_digest(folder), "rank": 4, "train_tokens": 10}
    record |= {"completion_tokens": 4, "final_loss": 0.5, "seconds": 1.5, "spec": {}}
    (folder / "train.json").write_text(json.dumps(record))


def test_digest_is_of_what_the_adapter_computes(adapter):
    digest = adapter_digest(adapter)
    save_file(
        {"b": torch.ones(2, 2), "a": torch.arange(4.0)}, adapter / "adapter_model.safetensors", {"made": "by hand"}
    )
    (adapter / "adapter_config.json").write_text(
        json.dumps({"lora_alpha": 8.0, "r": 4, "base_model_name_or_path": "y"})
    )
    assert adapter_digest(adapter) == digest


@pytest.mark.parametrize(
    "change",
    [
        lambda f: save_file({"a": torch.arange(4.0), "b": torch.zeros(2, 2)}, f / "adapter_model.safetensors"),
        lambda f: save_file({"a": torch.arange(4.0), "c": torch.ones(2, 2)}, f / "adapter_model.safetensors"),
        lambda f: save_file({"a": torch.arange(4.0), "b": torch.ones(4)}, f / "adapter_model.safetensors"),
        lambda f: (f / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 16})),
    ],
    ids=["value", "name", "shape", "scale"],
)
def test_digest_changes_with(adapter, change):
    digest = adapter_digest(adapter)
    change(adapter)
    assert adapter_digest(adapter) != digest


def test_reads_the_record_of_a_finished_adapter(adapter):
    finish(adapter)
    record = load_adapter_record(adapter)
    assert (record.path, record.rank, record.train_tokens, record.completion_tokens) == (adapter, 4, 10, 4)


def test_refuses_an_unfinished_a_changed_and_a_cut_adapter(adapter):
    with pytest.raises(StageError, match=r"train\.json is missing"):
        load_adapter_record(adapter)
    finish(adapter)
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\x07")
    with pytest.raises(StageError, match="changed after training"):
        load_adapter_record(adapter)
    weights.write_bytes(whole[:-4])
    with pytest.raises(StageError, match="no whole safetensors file"):
        load_adapter_record(adapter)
    weights.unlink()
    with pytest.raises(StageError, match="no adapter folder"):
        adapter_digest(adapter)
