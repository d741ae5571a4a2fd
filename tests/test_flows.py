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
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from labworld import ROOT, config_values, small_config, small_world
from prefect import flow
from prefect.flow_runs import resume_flow_run
from prefect_world import at_server, until

from cascade.errors import BudgetExceeded, InputError, PromotionConflict
from evaluation.report import EvaluationReport
from flows import assess, stages
from flows.approval import speak
from flows.canary import replay_canary
from flows.config import RunConfig
from flows.context import RunContext, open_run, open_state, start_run
from flows.improve import ask_a_person
from flows.plan import Plan, plan_run
from flows.records import BASELINE, BUILD, CLUSTER, DECIDE, EVALUATE, TRAIN, load_decision, load_labels, load_report
from flows.report import write_report
from flows.rundir import RunDir, read_json, read_jsonl, write_jsonl
from flows.serve import Replay, replay_traffic
from flows.simulation import run_table
from flows.verify import verify_run
from flows.watching import reference_of, watch
from lab.score import score_clusters
from lab.world import World
from monitoring.records import Name, Status
from promotion.approval import Word
from promotion.online import Standing
from promotion.simulate import Effect, simulate

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
def planned(served: tuple[RunConfig, Replay]) -> Plan:
    """What a run was said to cost before there was one."""
    return plan_run(served[0], open_state(served[0]))


@pytest.fixture(scope="module")
def improved(served: tuple[RunConfig, Replay], planned: Plan) -> RunContext:
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


def test_a_plan_says_what_the_run_then_pays(improved: RunContext, planned: Plan) -> None:
    baseline, build = improved.run.manifest(BASELINE), improved.run.manifest(BUILD)
    assert baseline is not None and build is not None
    answers, targeted, *others = planned.purchases
    assert (answers.fewest, answers.most) == (baseline.counts["flagship_bought"],) * 2
    assert answers.held == baseline.counts["flagship_reused"]
    assert answers.high_usd == pytest.approx(baseline.counts["flagship_cost_usd"], rel=0.05)
    assert targeted.fewest <= build.counts["flagship_bought"] <= targeted.most
    assert targeted.high_usd is not None and targeted.high_usd >= build.counts["flagship_cost_usd"]
    spent = improved.state.answers.spent_usd(improved.run.run_id)
    assert planned.low_usd is not None and planned.low_usd <= spent <= (planned.high_usd or 0) <= planned.at_most_usd
    assert {row.at_most_usd for row in others} == {0.0}
    assert planned.seconds is None and planned.training_usd is None, "no run has shown how long it takes"
    # Bought answers make the next one cheaper, and the run has shown how long its stages take.
    again = plan_run(improved.config, improved.state)
    assert again.purchases[0].most == 0 and again.low_usd is not None and again.low_usd < planned.low_usd
    assert again.times[4].seconds == improved.run.manifest(TRAIN).seconds  # type: ignore[union-attr]
    untargeted = again.arms[0]
    assert untargeted.what == "training answers, untargeted" and untargeted.most == untargeted.fewest > 0


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


def test_a_candidate_may_be_held_to_the_quality_that_the_champion_serves(improved: RunContext, tmp_path: Path) -> None:
    folder = tmp_path / improved.run.run_id
    shutil.copytree(improved.run.root, folder)
    config = improved.config
    strict = config.calibration.model_copy(update={"max_quality_loss": 0.0})
    ctx = replace(improved, config=config.model_copy(update={"calibration": strict}), run=RunDir(folder))
    stages.baseline(ctx)
    assess.evaluate(ctx)
    free, held = (read_json(c.run.stage(EVALUATE) / "verifier.json")["calibration"] for c in (improved, ctx))
    champion = read_json(ctx.run.stage(BASELINE) / "verifier.json")["calibration"]
    assert free["served_right"] < champion["served_right"] <= held["served_right"]
    assert held["threshold"] > free["threshold"]
    before, after = (load_report(c.run.stage(EVALUATE)).overall for c in (improved, ctx))
    assert after.candidate.escalation_rate.value > before.candidate.escalation_rate.value
    assert after.champion.escalation_rate == before.champion.escalation_rate


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


def copied(improved: RunContext, folder: Path, **gate: object) -> RunContext:
    """The finished run in folders of its own, under another policy."""
    shutil.copytree(improved.config.state, folder / "state")
    root = folder / "runs" / improved.run.run_id
    shutil.copytree(improved.run.root, root)
    shutil.rmtree(root / "08-promote", ignore_errors=True)
    head = read_json(root / "run.json")
    head["config"] |= {"state": str(folder / "state"), "runs": str(folder / "runs")}
    head["config"]["gate"] |= gate
    (root / "run.json").write_text(json.dumps(head))
    return open_run(root)


def test_a_decision_can_be_verified_and_a_changed_row_is_found(improved: RunContext, tmp_path: Path) -> None:
    assert verify_run(improved) == []
    changed = copied(improved, tmp_path)
    path = changed.run.stage(EVALUATE) / "pairs.jsonl"
    rows = read_jsonl(path)
    for row in rows[:40]:
        row["candidate"]["served_correct"] = 0.0
    write_jsonl(path, rows)
    found = verify_run(changed)
    assert "06-evaluate/pairs.jsonl was changed after the stage wrote it" in found
    assert any(line.startswith("report.overall.paired.quality_difference.value: stored") for line in found)
    command = [sys.executable, "-m", "flows.cli", "verify", improved.run.run_id, "-c", str(tmp_path / "config.yaml")]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(changed.config.dump()))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr[-2000:]
    assert "was changed after" in done.stdout


def test_a_candidate_waits_for_a_person(improved: RunContext, tmp_path: Path) -> None:
    for word, champion in ((Word.REJECT, improved.champion_id), (Word.APPROVE, None)):
        ctx = copied(improved, tmp_path / word, approval="required")
        assert ctx.state.registry.aliases().get("champion") == improved.champion_id
        assess.decision(ctx)
        assert assess.promote(ctx, "flow") is None and assess.awaits_word(ctx)
        candidate = ctx.state.registry.resolve("candidate")
        assert ctx.state.registry.aliases()["champion"] == improved.champion_id
        assert "waits for" in _shown(ctx, tmp_path / word)
        speak(ctx, word, "ana", "looked at twenty answers")
        speak(ctx, word, "ana", "said once more")  # a word that was kept is not said anew
        assert ctx.state.registry.resolve("champion").id == (champion or candidate.id)
        entry = ctx.state.registry.history()[-1]
        assert entry.who == "ana" and "looked at twenty answers" in entry.why
        assert not assess.awaits_word(ctx)
        with pytest.raises(InputError, match=f"was {word}d by ana"):
            speak(ctx, Word.APPROVE if word is Word.REJECT else Word.REJECT, "bo", "the other way")
        card = ctx.state.registry.card(candidate.id)
        assert card is not None and "The gate said PROMOTE" in card
        lineage = ctx.state.registry.lineage(candidate.id)
        assert None not in (lineage.data_digest, lineage.config_digest, lineage.report_digest)
    with pytest.raises(InputError, match="waits for no approval"):
        speak(improved, Word.APPROVE, "ana", "not asked")


def test_a_flow_waits_for_a_person_in_prefects_interface(
    improved: RunContext, tmp_path: Path, prefect_server: str
) -> None:
    """The flow pauses on a real server; what a person fills in there decides."""
    ctx = copied(improved, tmp_path, approval="required")
    assess.decision(ctx)
    assert assess.promote(ctx, "flow") is None
    candidate = ctx.state.registry.resolve("candidate")
    root = str(ctx.run.root)
    with at_server(prefect_server) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(copy_context().run, flow(name="waits")(ask_a_person), root, 600.0)
        paused = until(lambda: [r for r in client.read_flow_runs() if r.state_name == "Paused"], "the flow's pause")[0]
        assert ctx.state.registry.aliases()["champion"] == improved.champion_id
        said = {"word": "approve", "who": "ana", "why": "looked at twenty answers"}
        resume_flow_run(paused.id, run_input=said)
        waiting.result()
    assert ctx.state.registry.resolve("champion").id == candidate.id
    entry = ctx.state.registry.history()[-1]
    assert entry.who == "ana" and "looked at twenty answers" in entry.why


def _shown(ctx: RunContext, folder: Path) -> str:
    """What `report` prints of the run."""
    (folder / "config.yaml").write_text(yaml.safe_dump(ctx.config.dump()))
    command = [sys.executable, "-m", "flows.cli", "report", ctx.run.run_id, "-c", str(folder / "config.yaml")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_of_two_runs_that_beat_the_same_champion_one_is_promoted(improved: RunContext, tmp_path: Path) -> None:
    ctx = copied(improved, tmp_path)
    registry = ctx.state.registry
    other = registry.register(name="other", base_model="b", run_id="other")
    registry.promote(other.id, who="bo", why="was quicker", measured_against=ctx.champion_id)
    if load_decision(ctx).outcome == "promote":
        with pytest.raises(PromotionConflict, match=f"was measured against {ctx.champion_id}, but {other.id}"):
            assess.promote(ctx, "test")
    assert registry.aliases()["champion"] == other.id


def test_the_monitor_compares_a_promoted_version_with_its_held_out_slice(improved: RunContext, tmp_path: Path) -> None:
    ctx = copied(improved, tmp_path)
    promoted = assess.promote(ctx, "test")
    assert promoted is not None and promoted.counts["promoted"]
    champion = ctx.state.registry.resolve("champion")
    by_hand = ctx.state.registry.register(
        name=champion.name, base_model=champion.base_model, adapter=champion.adapter, verifier=champion.verifier
    )
    ctx.state.registry.promote(by_hand.id, who="somebody", why="before anybody looked")
    reference = reference_of(ctx.config, ctx.state, ctx.state.registry.resolve("champion"), ctx.prices)
    assert reference is not None and reference.version == champion.id
    measured = load_report(ctx.run.stage(EVALUATE)).overall.candidate.escalation_rate
    assert reference.n == measured.n
    assert reference.n_escalated / reference.n == pytest.approx(measured.value)
    found = watch(ctx.config, ctx.state)
    checks = {check.name: check for check in found.checks}
    assert set(checks) == set(Name) and found.n == 0
    assert {checks[name].status for name in Name if name is not Name.VERIFIER} == {Status.UNKNOWN}
    replayed = checks[Name.VERIFIER]  # on the very rows that it was evaluated on
    assert replayed.status is Status.OK and replayed.value == 0 and replayed.n > 0


def test_a_simulation_on_the_runs_rows(improved: RunContext) -> None:
    rows = run_table(improved)
    found = list(simulate(rows, improved.config.gate, Effect(0.3), n=rows.n, repetitions=30, resamples=500))[-1]
    none = list(simulate(rows, improved.config.gate, Effect(0.0), n=rows.n, repetitions=30, resamples=500))[-1]
    assert found.promoted.value >= 0.7
    assert none.promoted.value <= 0.2


def test_a_bad_candidate_on_a_share_of_traffic_is_taken_back(served: tuple[RunConfig, Replay], tmp_path: Path) -> None:
    """The candidate is the champion with a verifier that accepts nothing: its users wait for the flagship."""
    shutil.copytree(served[0].state, tmp_path / "state")
    config = served[0].model_copy(update={"state": tmp_path / "state"})
    assert config.traffic is not None
    traffic = tmp_path / "traffic.jsonl"
    rows = [{**row, "id": f"again-{row['id']}"} for row in read_jsonl(config.traffic)[:900]]
    write_jsonl(traffic, rows)
    state = open_state(config)
    champion = state.registry.resolve("champion")
    assert champion.verifier is not None
    strict = {**champion.verifier, "calibration": {**champion.verifier["calibration"], "threshold": None}}
    candidate = state.registry.register(name="c", base_model=champion.base_model, verifier=strict, run_id="strict")
    config = config.model_copy(update={"serve": config.serve.model_copy(update={"chunk": 60})})
    done = replay_canary(config, traffic, 0.3, progress=False)
    assert done.standing is Standing.WORSE
    assert done.taken_back_after is not None and done.taken_back_after < 900
    assert "candidate" not in state.registry.aliases()
    assert state.registry.history()[-1].who == "canary"
    versions = Counter(t.cheap_version for t in state.traces.between(None, None) if t.query.id.startswith("again-"))
    assert versions == {champion.id: done.n_champion, candidate.id: done.n_candidate}
    assert done.n_candidate + done.n_champion == 900
