"""Arms of a comparison differ in what they choose and in nothing else."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from labworld import small_config, small_world

from flows.compare import ARMS, ArmResult, mean_row, prepare, read_results, run_arms
from flows.console import print_comparison
from flows.context import start_run
from flows.records import BUILD
from flows.rundir import read_json, read_jsonl
from flows.serve import replay_traffic

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ArmResult]]:
    folder = tmp_path_factory.mktemp("compare")
    with small_world(folder / "lab", seed=13, drifted=1200) as world:
        config = small_config(world, folder, train={"epochs": 2}, target={"n_answers": 120})
        assert config.traffic is not None
        replay_traffic(config, config.traffic, progress=False)
        ctx = replace(start_run(config, "compare"), own_arm="")
        prepare(ctx)
        return ctx.run.root, run_arms(ctx, [1])


def test_answers_and_training_tokens_are_equal(results: tuple[Path, list[ArmResult]]) -> None:
    found = results[1]
    assert [r.arm for r in found] == list(ARMS)
    assert len({r.answers for r in found}) == 1
    tokens = [r.train_tokens for r in found]
    assert max(tokens) - min(tokens) < 128  # less than one example


def test_arms_choose_from_their_own_pools(results: tuple[Path, list[ArmResult]]) -> None:
    root = results[0]
    chosen = {arm: set(read_json(root / f"arms/{arm}/seed-1" / BUILD / "selection.json")["ids"]) for arm in ARMS}
    escalated = {row["id"] for row in read_jsonl(root / "03-cluster/assignment.jsonl")}
    assert chosen["targeted"] <= escalated
    assert chosen["random-within-escalated"] <= escalated
    assert not chosen["untargeted"] <= escalated
    assert chosen["targeted"] != chosen["random-within-escalated"]


def test_all_arms_are_measured_against_the_same_champion(results: tuple[Path, list[ArmResult]]) -> None:
    champions = [r.report.overall.champion for r in results[1]]
    assert all(champion.escalation_rate == champions[0].escalation_rate for champion in champions)


def test_the_table_comes_back_from_its_file(
    results: tuple[Path, list[ArmResult]], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**asdict(r), "report": r.report.to_dict()} for r in results[1]]
    assert [r.row() for r in read_results(rows)] == [r.row() for r in results[1]]
    assert mean_row(results[1][:1])["seeds"] == 1
    print_comparison(rows, results[0])
    shown = capsys.readouterr().out
    assert all(arm in shown for arm in ARMS)
