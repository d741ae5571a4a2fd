"""Names bought from the flagship: paid once, within the budget, harmless, and never a must."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from labworld import ROOT
from loopback import completion, serve

from cascade.errors import BudgetExceeded
from cascade.trace import Answer, Query
from clustering.cluster import Clustering
from clustering.collect import Escalation
from clustering.describe import describe_clusters
from flows.cluster_parts import name_clusters
from flows.config import build_config, read_yaml
from flows.context import RunContext, open_state
from flows.rundir import RunDir

TIME = datetime(2026, 3, 2, tzinfo=UTC)


def context(folder, url, budget_usd=1.0, **changes):
    values = read_yaml(ROOT / "configs/demo.yaml")
    values.pop("lab")
    values |= {"state": str(folder / "state"), "runs": str(folder / "runs"), "budget_usd": budget_usd, **changes}
    values |= {"prices": str(ROOT / "configs/prices.yaml"), "embed": {"model": "none"}}
    values["student"] |= {"base_model": "none"}
    values["flagship"] |= {"base_url": url, "max_retries": 0}
    config = build_config(values, "test")
    run = RunDir(config.runs / "one")
    return RunContext(config, run, TIME, TIME + timedelta(days=7), "v1", open_state(config))


def clusters_of(texts, labels):
    rows = []
    for number, text in enumerate(texts):
        query = Query(f"q{number}", TIME, "r", ({"role": "user", "content": text},))
        rows.append(Escalation(query.id, TIME, text, query, Answer("x", "m", 1, 1, 0.1, "stop"), None, None, None, 0.1))
    vectors = np.eye(len(texts), dtype=np.float32)
    n = len(texts)
    clustering = Clustering(np.array(labels), np.zeros(n, bool), np.zeros((n, 2), np.float32), "test", "by hand")
    return describe_clusters(clustering, vectors, rows), rows


TEXTS = ["cancel my drone", "cancel the drone order", "renew my gift card", "gift card renewal"]


def reply(body, number):
    asked = body["messages"][-1]["content"]
    return 200, completion("<b>Drone cancellations</b>" if "drone" in asked else "I'm sorry, I cannot do that.")


def test_names_are_bought_once_and_made_harmless(tmp_path):
    clusters, rows = clusters_of(TEXTS, [0, 0, 1, 1])
    with serve(reply) as server:
        named, counts = name_clusters(context(tmp_path, server.url), clusters, rows)
        again, second = name_clusters(context(tmp_path, server.url), clusters, rows)
    assert named[0].name == "b Drone cancellations /b"
    assert named[1].title is None
    assert "gift" in named[1].name, "a refusal leaves the terms"
    assert (counts["names_bought"], second["names_bought"]) == (2, 0)
    assert counts["names_cost_usd"] > 0
    assert again == named
    assert len(server.bodies) == 2


def test_names_count_against_the_budget(tmp_path):
    clusters, rows = clusters_of(TEXTS, [0, 0, 1, 1])
    with serve(reply) as server, pytest.raises(BudgetExceeded):
        name_clusters(context(tmp_path, server.url, budget_usd=1e-6), clusters, rows)
    assert server.bodies == []
