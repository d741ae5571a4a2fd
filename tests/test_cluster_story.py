"""Three weeks of the shop: a cluster is kept, one solved, one comes, one regresses; and the command shows it."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from labworld import ROOT

from cascade.trace import Answer, Outcome, Query, TokenConfidence, Trace, Verdict
from flows import stages
from flows.config import build_config, read_yaml
from flows.context import RunContext, open_state, start_run
from flows.records import (
    CLUSTER,
    load_clusters,
    load_escalations,
    load_fates,
    load_labels,
    load_solved,
    load_traces,
)
from flows.report import write_report
from lab.skills import KNOWN, NEW, draw_query
from lab.world import LabConfig

START = datetime(2026, 1, 5, tzinfo=UTC)
WEEK = timedelta(days=7)
KEPT, SOLVED, REGRESSED, FRESH = "gift_card", "rental", "pickup", "assembly"
# Skills that come in a week, and of those the ones that the cheap tier cannot do yet.
PLAN = (
    ({KEPT, SOLVED, REGRESSED}, {KEPT, SOLVED, REGRESSED}),
    ({KEPT, SOLVED, REGRESSED}, {KEPT, SOLVED}),
    ({KEPT, SOLVED, REGRESSED, FRESH}, {KEPT, REGRESSED, FRESH}),
)
PER_SKILL, KNOWN_QUERIES = 180, 400


def trace(number: int, week: int, rng: random.Random, skill: str | None, hard: bool) -> tuple[Trace, str]:
    kind = next(s for s in NEW if s.name == skill) if skill else rng.choice(KNOWN)
    drawn = draw_query(kind, rng)
    time = START + week * WEEK + timedelta(seconds=rng.randrange(int(WEEK.total_seconds())))
    query = Query(f"w{week}-{number}", time, "support", ({"role": "user", "content": drawn.text},), user="u")
    logprob = (-2.0 if hard else -0.02) + rng.gauss(0, 0.005)
    sure = TokenConfidence(8, logprob, logprob, logprob, 0.5)
    cheap = Answer('{"intent":"wrong"}' if hard else drawn.gold, "lab-student", 40, 12, 0.1, "stop", sure)
    flagship = Answer(drawn.gold, "lab-flagship", 40, 12, 0.5, "stop")
    verdict = Verdict(Outcome.REJECT if hard else Outcome.ACCEPT, 0.9 if hard else 0.01, ())
    return Trace(query, cheap, "v1", verdict, hard, not hard, 1.0, flagship, 0.001), drawn.skill


def week_of_traces(week: int) -> tuple[list[Trace], dict[str, str]]:
    rng = random.Random(f"story-{week}")
    come, hard = PLAN[week]
    wanted: list[str | None] = [skill for skill in sorted(come) for _ in range(PER_SKILL)]
    wanted += [None] * KNOWN_QUERIES
    made = [trace(number, week, rng, skill, skill in hard) for number, skill in enumerate(wanted)]
    return [t for t, _ in made], {t.query.id: skill for t, skill in made}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[RunContext], dict[str, str]]]:
    folder = tmp_path_factory.mktemp("story")
    values = read_yaml(ROOT / "configs/demo.yaml")
    values.pop("lab")
    values |= {
        "state": str(folder / "state"),
        "runs": str(folder / "runs"),
        "prices": str(ROOT / "configs/prices.yaml"),
        "window": {"days": 6.99, "pool": 0.6, "calibration": 0.2},
        "cluster": {"min_points": 150},
        "calibration": {"max_error_accepted": 0.06},
        "embed": {"model": str(LabConfig().models / "embedder")},
    }
    values["student"] |= {"base_model": str(LabConfig().models / "base")}
    values["flagship"] |= {"base_url": "http://127.0.0.1:9/v1"}  # nothing listens: every answer is there already
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    config = build_config(values, "story")
    registry = open_state(config).registry
    registry.promote(registry.register(name="s", base_model="base").id, who="test", why="first")
    runs, skills = [], {}
    for week in range(3):
        traces, truth = week_of_traces(week)
        skills |= truth
        open_state(config).traces.add(traces)
        ctx = start_run(config, f"week-{week}")
        for stage in (stages.collect, stages.baseline, stages.cluster):
            stage(ctx)
        runs.append(ctx)
    yield path, runs, skills


def states_by_skill(ctx: RunContext, skills: dict[str, str], uids: dict[str, str]) -> dict[str, set[tuple[str, str]]]:
    """(identity, state) of the clusters in which a skill has the majority."""
    labels = load_labels(ctx)
    found: dict[str, set[tuple[str, str]]] = {}
    for fate in load_fates(ctx):
        if fate.cluster is None:
            found.setdefault(uids[fate.uid], set()).add((fate.uid, str(fate.state)))
            continue
        own = [skills[i] for i, label in labels.items() if label == fate.cluster]
        skill = max(set(own), key=own.count)
        assert own.count(skill) > 0.8 * len(own), f"{fate.uid} mixes skills"
        uids.setdefault(fate.uid, skill)
        found.setdefault(skill, set()).add((fate.uid, str(fate.state)))
    return found


def test_states_are_right(story):
    _, runs, skills = story
    uids: dict[str, str] = {}
    first, second, third = (states_by_skill(ctx, skills, uids) for ctx in runs)
    assert {skill: {state for _, state in found} for skill, found in first.items()} == {
        skill: {"new"} for skill in (KEPT, SOLVED, REGRESSED)
    }
    identity = {skill: {uid for uid, _ in found} for skill, found in first.items()}
    assert second[REGRESSED] == {(uid, "solved") for uid in identity[REGRESSED]}
    assert {(uid, "persisting") for uid in identity[KEPT]} & second[KEPT]
    assert third[SOLVED] and {state for _, state in third[SOLVED]} == {"solved"}
    assert identity[SOLVED] <= {uid for uid, _ in third[SOLVED]}
    assert {state for _, state in third[FRESH]} == {"new"}
    assert (next(iter(identity[REGRESSED])), "regressed") in third[REGRESSED]
    assert "new" not in {state for _, state in third[KEPT]}


def test_the_command_shows_them_and_draws_the_map(story):
    path, runs, _ = story
    tool = [sys.executable, "-m", "flows.cli", "clusters", "-c", str(path)]
    done = subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, check=True)
    for state in ("persisting", "solved", "regressed", "new"):
        assert state in done.stdout, done.stdout
    assert "week-0" in done.stdout, "first seen"
    picture = runs[2].run.root / "clusters.png"
    assert str(picture) in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    one = subprocess.run([*tool, "--run-id", "week-0"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "regressed" not in one.stdout


def test_the_report_shows_identities_states_and_the_path(story):
    _, runs, _ = story
    page = write_report(runs[2]).read_text()
    for fate in load_fates(runs[2]):
        assert fate.uid in page
    assert "Earlier clusters without one of their own" in page
    assert "noise after the policy" in page
    assert re.search(r"\d+ cheap wrong", page)


def test_costs_and_causes_add_up(story):
    _, runs, _ = story
    for ctx in runs:
        escalations = load_escalations(ctx)
        for cluster in load_clusters(ctx):
            assert sum(cluster.causes.values()) == cluster.size
            assert cluster.n_distinct <= cluster.size
        noise = sum(label == -1 for label in load_labels(ctx).values())
        assert sum(c.size for c in load_clusters(ctx)) + noise == len(escalations)


def test_a_run_again_keeps_its_identities(story):
    _, runs, _ = story
    before = load_fates(runs[1])
    (runs[1].run.stage(CLUSTER) / "manifest.json").unlink()
    stages.cluster(runs[1])
    assert load_fates(runs[1]) == before


def test_an_unknown_run_is_one_sentence(story):
    path, _, _ = story
    tool = [sys.executable, "-m", "flows.cli", "clusters", "-c", str(path), "--run-id", "nope"]
    done = subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "holds no run" in done.stderr


def test_what_is_solved_stands_before_the_gate_with_its_heldout_queries(story):
    _, runs, skills = story
    found = load_solved(runs[2])
    assert {cluster.lineage for cluster in found} == {
        fate.uid for fate in load_fates(runs[2]) if fate.state == "solved"
    }
    heldout = {t.query.id for t in load_traces(runs[2], "heldout")}
    for cluster in found:
        assert len(cluster.query_ids) > 10
        assert set(cluster.query_ids) <= heldout
        own = [skills[i] == SOLVED for i in cluster.query_ids]
        assert sum(own) > 0.8 * len(own)
