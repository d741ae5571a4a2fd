"""Sharded stages: the same results in this process and on a Ray cluster; a killed run goes on with what is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from labworld import ROOT
from loopback import make_query
from prefect_world import at_server

from cascade.errors import ConfigError
from cascade.local import LocalTier, LocalTierConfig
from clustering.embed import EmbedConfig, embed_texts
from clustering.shards import embed_in_shards
from flows.config import RunnerConfig
from flows.shards import answer_in_shards, open_runner

MODELS = ROOT / "lab/models"
STUDENT = LocalTierConfig(base_model=str(MODELS / "base"), name="lab-student", max_new_tokens=8)
EMBED = EmbedConfig(model=str(MODELS / "embedder"))
QUERIES = [make_query(n, f"where is my order number {1000 + n}") for n in range(30)]
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("prefect_ray") is None,
    reason="Ray is not installed: pip install -c constraints.txt -e '.[ray]'",
)


def test_answers_in_shards_are_those_of_all_at_once_and_finished_shards_stay(tmp_path: Path) -> None:
    whole = LocalTier(STUDENT).answer(QUERIES, progress=False)
    config = RunnerConfig(shard_queries=12)
    made = answer_in_shards(QUERIES, STUDENT, tmp_path, config)
    assert [answer.text for answer in made] == [answer.text for answer in whole]
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"answers-0000{n}.jsonl" for n in range(3)]
    (tmp_path / "answers-00001.jsonl").unlink()
    again = answer_in_shards(QUERIES, STUDENT, tmp_path, config)
    times = [answer.latency_s for answer in made], [answer.latency_s for answer in again]
    assert times[0][:12] + times[0][24:] == times[1][:12] + times[1][24:], "only the missing shard is made"
    assert [answer.text for answer in again] == [answer.text for answer in whole]


@needs_ray
def test_a_ray_cluster_gives_what_this_process_gives(prefect_server: str, tmp_path: Path) -> None:
    config = RunnerConfig(kind="ray", workers=2, shard_texts=12, shard_queries=12)
    texts = [query.text for query in QUERIES]
    with at_server(prefect_server) as client, open_runner(config) as run:
        vectors = embed_in_shards(texts, EMBED, tmp_path / "vectors", run, config.shard_texts)
        answers = answer_in_shards(QUERIES, STUDENT, tmp_path / "answers", config)
        names = sorted(found.name.split("-")[0] for found in client.read_task_runs())
    assert np.array_equal(vectors, embed_texts(texts, EMBED, progress=False))
    here = answer_in_shards(QUERIES, STUDENT, tmp_path / "here", replace_kind(config))
    assert [(a.text, a.tokens_out, a.finish_reason) for a in answers] == [
        (a.text, a.tokens_out, a.finish_reason) for a in here
    ]
    assert names == ["answer_shard"] * 3 + ["embed_shard"] * 3, "each shard is a task run of the server's"


def replace_kind(config: RunnerConfig) -> RunnerConfig:
    return config.model_copy(update={"kind": "threads"})


@pytest.mark.skipif(importlib.util.find_spec("prefect_ray") is not None, reason="Ray is installed")
def test_without_ray_one_sentence_says_what_to_install() -> None:
    with (
        pytest.raises(ConfigError, match="Ray is not installed"),
        open_runner(RunnerConfig(kind="ray")),
    ):
        pass
