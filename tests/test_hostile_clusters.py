"""Escalations nobody would wish for: floods, copies, novels, many tongues, and hardly any."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from labworld import ROOT

from cascade.errors import InputError
from cascade.trace import Answer, Query
from clustering.causes import find_causes
from clustering.cluster import ClusterConfig, cluster_embeddings
from clustering.collect import Escalation, distinct_rows
from clustering.describe import describe_clusters
from clustering.embed import EmbedConfig, embed_texts, n_cut
from clustering.target import TargetConfig, select_targeted
from flows.cluster_parts import embed_and_cluster
from flows.config import build_config, read_yaml
from flows.context import RunContext, open_state
from flows.rundir import RunDir
from lab.skills import NEW, draw_query
from lab.world import LabConfig

TIME = datetime(2026, 3, 2, tzinfo=UTC)
POTION = Path(__file__).resolve().parents[2] / "shared" / "models" / "potion-base-4m"
needs_words = pytest.mark.skipif(not POTION.is_dir(), reason="the static embedder is not there")


def escalation(number, text, user=None):
    query = Query(f"q{number}", TIME, "r", ({"role": "user", "content": text},), user=user)
    answer = Answer("x", "m", 1, 1, 0.1, "stop")
    return Escalation(query.id, TIME, text, query, answer, replace(answer, text="y"), False, user, 0.01)


def skill_texts(per_skill=80, seed=0):
    rng = random.Random(seed)
    return [draw_query(skill, rng).text for skill in NEW for _ in range(per_skill)]


@pytest.fixture
def ctx(tmp_path):
    values = read_yaml(ROOT / "configs/demo.yaml")
    values.pop("lab")
    values |= {
        "state": str(tmp_path / "state"),
        "runs": str(tmp_path / "runs"),
        "prices": str(ROOT / "configs/prices.yaml"),
        "cluster": {"reducer": "pca", "min_cluster_size": 10},
        "embed": {"model": str(LabConfig().models / "embedder")},
    }
    values["student"] |= {"base_model": "none"}
    values["flagship"] |= {"base_url": "http://127.0.0.1:9/v1"}
    config = build_config(values, "test")
    run = RunDir(config.runs / "one")
    return RunContext(config, run, TIME, TIME + timedelta(days=7), "v1", open_state(config))


def test_a_flood_is_one_row_and_buys_one_answer(ctx):
    flood = "Cancel my ORDER 4711 now"
    rows = [escalation(i, text, f"user-{i % 50}") for i, text in enumerate(skill_texts())]
    rows += [escalation(10_000 + i, flood if i % 2 else f"  {flood.lower()} ", "flooder") for i in range(10_000)]
    clustering, vectors, counts = embed_and_cluster(ctx, rows)
    assert counts["most_copies_of_a_text"] == 10_000
    assert counts["distinct_texts"] <= 561
    assert clustering.path.n_points == counts["distinct_texts"], "copies have no density"
    labels = clustering.labels[-10_000:]
    assert len(set(labels.tolist())) == 1
    clusters = describe_clusters(clustering, vectors, rows)
    chosen = select_targeted(rows, clustering.labels, clusters, vectors, TargetConfig(n_answers=100))
    texts = {row.id: row.text for row in rows}
    copies = [i for i in chosen.query_ids if " ".join(texts[i].casefold().split()) == flood.casefold()]
    assert len(copies) <= 1
    assert len(chosen.query_ids) > 30
    share = chosen.per_cluster.get(int(labels[0]), 0) / len(chosen.query_ids)
    assert share < 0.5, "its cluster does not eat the budget"
    for cluster in clusters:
        assert len({texts[i].casefold().strip() for i in cluster.exemplar_ids}) == len(cluster.exemplar_ids)


def test_all_identical_texts_are_one_sentence(ctx):
    rows = [escalation(i, "where is my parcel") for i in range(600)]
    with pytest.raises(InputError, match="only 1 distinct texts among the 600 escalations"):
        embed_and_cluster(ctx, rows)


def test_three_escalations_are_one_sentence(ctx):
    with pytest.raises(InputError, match=r"only 3 distinct texts .* nothing to learn from yet") as error:
        embed_and_cluster(ctx, [escalation(i, text) for i, text in enumerate(("one", "two", "three"))])
    assert "\n" not in str(error.value)


def test_a_few_dozen_are_split_and_say_so(ctx):
    rows = [escalation(i, text) for i, text in enumerate(skill_texts(per_skill=8))]
    clustering, _, _ = embed_and_cluster(ctx, rows)
    assert clustering.method == "ward"
    assert "too few for density" in clustering.path.fallback


@needs_words
def test_novels_are_cut_and_counted():
    config = EmbedConfig(model=str(POTION), max_characters=500)
    novel = "where is my parcel " * 2700  # 50 kB
    assert n_cut([novel, "short"], config) == 1
    long, cut = embed_texts([novel, novel[:500]], config, progress=False)
    assert np.array_equal(long, cut)
    rows = [escalation(0, novel), escalation(1, "gift card")]
    clustering = replace(cluster_embeddings(np.eye(2, dtype=np.float32)), labels=np.zeros(2, np.int64))
    (cluster,) = describe_clusters(clustering, np.eye(2, dtype=np.float32), rows)
    assert "parcel" in " ".join(cluster.terms)


@needs_words
def test_many_tongues_and_blanks_give_a_result():
    said = [
        "где моя посылка",
        "我的包裹在哪里",
        "où est mon colis",
        "wo ist mein Paket",
        "أين طردي",
        "🙂🙂",
        " ",
        "\ud800",
    ]
    texts = [f"{text} {n}" for n in range(50) for text in said]
    vectors = embed_texts(texts, EmbedConfig(model=str(POTION)), progress=False)
    assert np.isfinite(vectors).all()
    clustering = cluster_embeddings(vectors, ClusterConfig(reducer="pca"))
    rows = [escalation(i, text) for i, text in enumerate(texts)]
    clusters = describe_clusters(clustering, vectors, rows)
    assert sum(c.size for c in clusters) == int((clustering.labels >= 0).sum())
    assert len(find_causes(rows, vectors, clustering.labels, "exact")) == len(rows)


def test_copies_in_number_beyond_the_sample_give_a_result():
    points = np.repeat(np.eye(8, dtype=np.float32)[:1], 900, axis=0)
    result = cluster_embeddings(points, ClusterConfig(reducer="none", sample_points=500))
    assert len(result.labels) == 900
    assert np.isfinite(result.coords_2d).all()


def test_case_and_white_space_make_no_new_text():
    assert distinct_rows(["A  b", "a b", "c", "A B ", "C"]).tolist() == [0, 0, 2, 0, 2]
    assert distinct_rows([]).tolist() == []
