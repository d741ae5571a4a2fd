"""The whole loop on lab data, through real HTTP, HDBSCAN, LoRA and SQL: promotion, refusal, rollback, resumption."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from labworld import ROOT, config_values, small_config, small_world

from cascade.errors import BudgetExceeded
from evaluation.report import EvaluationReport
from flows import assess, stages
from flows.config import RunConfig
from flows.context import RunContext, start_run
from flows.records import BUILD, CLUSTER, DECIDE, EVALUATE, TRAIN, load_decision, load_labels, load_report
from flows.report import write_report
from flows.rundir import read_json, read_jsonl, write_jsonl
from flows.serve import Replay, replay_traffic
from lab.score import score_clusters
from lab.world import World

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with small_world(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


@pytest.fixture(scope="module")
def served(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Replay]:
    """A cascade that has served all traffic with the base model."""
    config = small_config(world, tmp_path_factory.mktemp("served"))
    assert config.traffic is not None
    return config, replay_traffic(config, config.traffic, progress=False)


@pytest.fixture(scope="module")
def improved(served: tuple[RunConfig, Replay]) -> RunContext:
    """A finished run, up to the decision."""
    ctx = start_run(served[0], "improved")
    for stage in (stages.collect, stages.baseline, stages.cluster, stages.build, stages.train):
        stage(ctx)
    assess.evaluate(ctx)
    assess.decision(ctx)
    return ctx


def test_serving_calibrates_escalates_and_audits(served: tuple[RunConfig, Replay]) -> None:
    _, replay = served
    assert replay.n_cold_start == 400
    assert replay.served.n == 450 + 2700 - 400
    assert 0.1 < (replay.served.escalation_rate or 0) < 0.9
    assert replay.served.n_audited > 0
    assert replay.served.n_failed == 0


def test_serving_again_skips_everything(served: tuple[RunConfig, Replay]) -> None:
    config, first = served
    assert config.traffic is not None
    again = replay_traffic(config, config.traffic, progress=False)
    assert (again.served.n, again.served.n_skipped, again.n_cold_start) == (0, first.served.n, 0)


def test_clusters_match_the_planted_skills(improved: RunContext, world: World) -> None:
    score = score_clusters(load_labels(improved), read_jsonl(world.traffic_path))
    assert score.adjusted_rand is not None and score.adjusted_rand >= 0.7
    assert score.noise_share is not None and score.noise_share < 0.35


def test_heldout_queries_are_newer_than_all_training_data(improved: RunContext) -> None:
    folder = improved.run.stage("01-collect")
    parts = {p: read_jsonl(folder / f"{p}.jsonl") for p in ("pool", "calibration", "heldout")}
    latest = {p: max(r["query"]["time"] for r in rows) for p, rows in parts.items()}
    first = {p: min(r["query"]["time"] for r in rows) for p, rows in parts.items()}
    assert latest["pool"] <= first["calibration"] and latest["calibration"] <= first["heldout"]
    trained = {row["id"] for row in read_jsonl(improved.run.stage(BUILD) / "training.jsonl")}
    assert trained <= {row["query"]["id"] for row in parts["pool"]}


def test_the_candidate_escalates_less_at_the_same_quality(improved: RunContext) -> None:
    paired = load_report(improved.run.stage(EVALUATE)).overall.paired
    assert paired.escalation_cut is not None and paired.escalation_cut.low > 0.1
    assert paired.quality_difference.low > -improved.config.gate.quality_margin


def test_a_finished_run_is_skipped_stage_by_stage(improved: RunContext) -> None:
    before = {stage: improved.run.manifest(stage) for stage in (CLUSTER, BUILD, TRAIN, EVALUATE, DECIDE)}
    again = start_run(improved.config, "improved")
    for stage in (stages.collect, stages.baseline, stages.cluster, stages.build, stages.train):
        stage(again)
    assess.evaluate(again)
    assess.decision(again)
    assert {stage: again.run.manifest(stage) for stage in before} == before


def test_the_report_shows_pictures_and_reasons(improved: RunContext) -> None:
    page = write_report(improved).read_text()
    assert page.count("<svg") == 4
    assert str(load_decision(improved).outcome).upper() in page
    for check in load_decision(improved).checks:
        assert check.name in page
    assert not re.search(r'(src|href)="https?:', page), "the page must be readable offline"


def shuffled_run(config: RunConfig, run_id: str) -> RunContext:
    """A candidate trained on answers that belong to other questions."""
    ctx = start_run(config, run_id)
    for stage in (stages.collect, stages.baseline, stages.cluster, stages.build):
        stage(ctx)
    path = ctx.run.stage(BUILD) / "training.jsonl"
    rows = read_jsonl(path)
    answers = [row["answer"] for row in rows]
    random.Random(0).shuffle(answers)
    write_jsonl(path, ({**row, "answer": answer} for row, answer in zip(rows, answers, strict=True)))
    stages.train(ctx)
    assess.evaluate(ctx)
    assess.decision(ctx)
    return ctx


def test_promotion_refusal_and_rollback(improved: RunContext) -> None:
    registry = improved.state.registry
    promoted = assess.promote(improved, "test").counts
    assert promoted["outcome"] == "promote", load_decision(improved)
    good = promoted["candidate"]
    assert registry.resolve("champion").id == good
    assert registry.resolve("previous").id == improved.champion_id

    bad = shuffled_run(improved.config, "shuffled")
    assert bad.champion_id == good
    refused = assess.promote(bad, "test").counts
    assert refused["outcome"] == "reject"
    reasons = [check for check in load_decision(bad).checks if check.status == "fail"]
    assert reasons and all(check.sentence for check in reasons)
    assert registry.resolve("champion").id == good
    assert registry.history()[-1].action == "reject" and "cost lower" in registry.history()[-1].why

    assert registry.rollback(who="test", why="try the way back").id == improved.champion_id
    assert registry.resolve("champion").id == improved.champion_id
    assert [entry.action for entry in registry.history()][-1] == "rollback"


def test_the_budget_is_hard(served: tuple[RunConfig, Replay], tmp_path: Path) -> None:
    config, _ = served
    state = tmp_path / "state"
    shutil.copytree(config.state, state)
    (state / "answers.db").unlink()
    for leftover in state.glob("answers.db-*"):
        leftover.unlink()
    poor = config.model_copy(update={"state": state, "runs": tmp_path / "runs", "budget_usd": 0.01})
    ctx = start_run(poor, "poor")
    stages.collect(ctx)
    with pytest.raises(BudgetExceeded):
        stages.baseline(ctx)
    assert 0 < ctx.state.answers.spent_usd("poor") <= 0.01


def run_until(command: list[str], ready: Callable[[], bool], log: Path) -> None:
    """Start a command and SIGKILL its whole session when `ready`; fails when it ends before."""
    with log.open("w") as out:
        child = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True)
        while not ready():
            assert child.poll() is None, log.read_text()[-3000:]
            time.sleep(0.02)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def test_a_killed_run_resumes_and_buys_nothing_twice(tmp_path: Path) -> None:
    """SIGKILL in the middle of labelling and in the middle of training; the flagship's own ledger counts."""
    with small_world(tmp_path / "lab", seed=12, drifted=1200, latency_s=0.02) as world:
        # A checkpoint at every step, so that training has something to go on from.
        values = config_values(world, tmp_path, train={"checkpoint_every_steps": 2, "epochs": 2})
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(values))
        tool = [sys.executable, "-m", "flows.cli"]
        subprocess.run([*tool, "replay", "-c", str(path)], cwd=ROOT, check=True, capture_output=True)

        ledger = world.ledger_path

        def billed() -> int:
            return len(ledger.read_text().splitlines())

        served = billed()
        command = [*tool, "run", "-c", str(path), "--run-id", "killed"]
        run_until(command, lambda: billed() > served + 60, tmp_path / "1.log")
        in_labelling = billed()
        root = tmp_path / "runs" / "killed"
        assert not (root / "02-baseline" / "manifest.json").exists()

        losses = root / "05-train" / "work" / "loss.jsonl"
        run_until(command, lambda: losses.exists() and len(losses.read_text().splitlines()) > 6, tmp_path / "2.log")
        assert not (root / "05-train" / "manifest.json").exists()
        in_training = billed()

        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 3, 4), done.stderr[-3000:]
        assert (root / "report.html").exists()
        assert in_labelling < in_training == billed()
        asked = Counter(json.loads(line)["content"] for line in ledger.read_text().splitlines())
        assert max(asked.values()) == 1
        trained = read_json(root / "05-train" / "adapter" / "train.json")
        assert len(read_jsonl(root / "05-train" / "adapter" / "loss.jsonl")) == trained["n_steps"]


def test_the_report_record_round_trips(improved: RunContext) -> None:
    row = read_json(improved.run.stage(EVALUATE) / "report.json")
    assert json.loads(json.dumps(EvaluationReport.from_dict(row).to_dict())) == row
