"""Arms of a comparison differ in what they choose and in nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from labworld import small_config, small_world

from benchmarks.targeted_records import read_world, record_of, write_world
from cascade.errors import InputError
from flows.arms import ARMS, choose_arms
from flows.compare import prepare, run_arms
from flows.comparison import ArmResult, figures, figures_of, read_comparison, write_comparison
from flows.comparison_tables import headline, price_rows, rows_of
from flows.context import RunContext, start_run
from flows.forget import Whose, plan_forget
from flows.outcomes import CHAMPIONS, outcomes_of
from flows.records import BUILD, TRAIN, load_pool, load_traces
from flows.run_tables import print_comparison, print_status
from flows.rundir import read_json, read_jsonl
from flows.selection import choose_queries
from flows.serve import replay_traffic

pytestmark = pytest.mark.timeout(900)
TRAINED = ("targeted", "untargeted", "random-within-escalated")
UNTRAINED = ("labels-alone", "retrieval-alone")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunContext, list[ArmResult]]:
    folder = tmp_path_factory.mktemp("compare")
    with small_world(folder / "lab", seed=13, drifted=1200) as world:
        config = small_config(
            world, folder, train={"epochs": 1}, target={"n_answers": 120}, verifier={"kind": "learned"}
        )
        assert config.traffic is not None
        replay_traffic(config, config.traffic, progress=False)
        ctx = replace(start_run(config, "compare"), experiment=True)
        prepare(ctx)
        results = run_arms(ctx, choose_arms([*TRAINED, *UNTRAINED]), [1], [120])
        write_comparison(ctx, results)
        return ctx, results


def ids_of(ctx: RunContext, arm: str) -> list[str]:
    return list(read_json(ctx.run.root / f"arms/{arm}/seed-1/answers-120" / BUILD / "selection.json")["ids"])


def test_answers_and_training_tokens_are_equal(done: tuple[RunContext, list[ArmResult]]) -> None:
    found = done[1]
    assert [r.arm for r in found] == [*TRAINED, *UNTRAINED]
    assert len({r.answers for r in found}) == 1
    tokens = [r.train_tokens for r in found if r.arm in TRAINED]
    assert max(tokens) - min(tokens) < 128  # less than one example
    assert all(r.train_tokens == 0 and r.train_usd == 0 for r in found if r.arm in UNTRAINED)


def test_arms_choose_from_their_own_pools(done: tuple[RunContext, list[ArmResult]]) -> None:
    ctx = done[0]
    chosen = {arm: set(ids_of(ctx, arm)) for arm in (*TRAINED, *UNTRAINED)}
    escalated = {row["id"] for row in read_jsonl(ctx.run.root / "03-cluster/assignment.jsonl")}
    assert chosen["targeted"] <= escalated
    assert chosen["random-within-escalated"] <= escalated
    assert not chosen["untargeted"] <= escalated
    assert chosen["targeted"] != chosen["random-within-escalated"]
    assert chosen["labels-alone"] == chosen["retrieval-alone"] == chosen["targeted"]


def test_only_an_arms_own_answers_are_looked_at(done: tuple[RunContext, list[ArmResult]]) -> None:
    ctx = done[0]
    assert any(trace.flagship is not None for trace in load_traces(ctx, "pool"))  # serving had paid for some
    assert all(trace.flagship is None for trace in load_pool(ctx))
    for arm in (*TRAINED, *UNTRAINED):
        folder = ctx.run.root / f"arms/{arm}/seed-1/answers-120"
        assert {row["query_id"] for row in read_jsonl(folder / BUILD / "answers.jsonl")} <= set(ids_of(ctx, arm))


def test_an_arm_without_training_trains_nothing(done: tuple[RunContext, list[ArmResult]]) -> None:
    root = done[0].run.root
    for arm in UNTRAINED:
        assert not (root / f"arms/{arm}/seed-1/answers-120" / TRAIN).exists()
    answers = root / "arms/retrieval-alone/seed-1/answers-120"
    known = {row["text"] for row in read_jsonl(answers / BUILD / "answers.jsonl")}
    served = {row["text"] for row in read_jsonl(answers / "06-evaluate/candidate.jsonl")}
    assert served <= known


def test_all_arms_are_measured_against_the_same_champion(done: tuple[RunContext, list[ArmResult]]) -> None:
    champions = [r.report.overall.champion for r in done[1]]
    assert all(champion.escalation_rate == champions[0].escalation_rate for champion in champions)


def test_forgetting_and_the_status_see_what_the_arms_hold(
    done: tuple[RunContext, list[ArmResult]], capsys: pytest.CaptureFixture[str]
) -> None:
    ctx = done[0]
    known = {row["id"] for arm in (*TRAINED, *UNTRAINED) for row in _training_rows(ctx, arm)}
    in_parts = [trace.query for trace in load_traces(ctx, "pool") if trace.query.id in known and trace.query.user]
    (held,) = plan_forget(ctx.config, Whose(user=in_parts[0].user)).runs
    assert held.n_trained > 0
    assert held.n_examples == len(known)
    print_status(ctx.state, ctx.config.runs)
    assert "5 arms evaluated" in capsys.readouterr().out


def _training_rows(ctx: RunContext, arm: str) -> list[dict[str, Any]]:
    return list(read_jsonl(ctx.run.root / f"arms/{arm}/seed-1/answers-120" / BUILD / "training.jsonl"))


def test_nothing_is_bought_twice_and_finished_arms_are_skipped(done: tuple[RunContext, list[ArmResult]]) -> None:
    ctx, results = done
    # The flagship is gone by now: asking it again would fail.
    again = run_arms(ctx, choose_arms([*TRAINED, *UNTRAINED]), [1], [120])
    assert [r.report for r in again] == [r.report for r in results]
    assert all(r.bought == 0 for r in results if r.arm in UNTRAINED)


def test_the_tables_and_the_page_come_from_the_files(
    done: tuple[RunContext, list[ArmResult]], capsys: pytest.CaptureFixture[str]
) -> None:
    ctx, results = done
    root = ctx.run.root
    assert read_comparison(root) == results
    found = figures(results)
    by_arm = {f.arm: f for f in found}
    for result in results:
        saving = result.report.overall.paired.cost_saving
        assert saving is not None
        assert by_arm[result.arm].served.cost.value == pytest.approx(saving.value)
        quality = result.report.overall.paired.quality_difference
        assert by_arm[result.arm].quality.value == pytest.approx(quality.value)
        costs = outcomes_of(result, 0.9).by_name[CHAMPIONS]
        saved = 1 - costs.after.sum() / costs.before.sum()
        assert by_arm[result.arm].held[CHAMPIONS].cost.value == pytest.approx(saved)
    assert [row["arm"] for row in rows_of(found)] == [row["arm"] for row in price_rows([r.taken() for r in results])]
    print_comparison(root, 0.9)
    shown = capsys.readouterr().out
    assert "90 % of the flagship's" in shown
    assert all(arm in shown for arm in by_arm)
    page = (root / "comparison.html").read_text()
    assert headline(found)[:40] in page
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://matplotlib.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "")


def test_a_lower_quality_costs_every_side_no_more(done: tuple[RunContext, list[ArmResult]]) -> None:
    for result in done[1]:
        high, low = (
            outcomes_of(result, share).by_name[f"{100 * share:g} % of the flagship's"] for share in (0.99, 0.8)
        )
        assert low.before.sum() <= high.before.sum()
        assert low.after.sum() <= high.after.sum()
        if result.arm == "targeted":
            assert low.before.sum() < high.before.sum()


def test_tables_come_out_the_same_from_what_is_recorded(
    done: tuple[RunContext, list[ArmResult]], tmp_path: Path
) -> None:
    worlds = [[replace(result, seed=seed) for result in done[1]] for seed in (1, 2)]
    records = [record_of(result) for results in worlds for result in results]
    for seed in (1, 2):
        write_world(tmp_path, "small", [r for r in records if r.outcomes.seed == seed])
    kept = read_world(tmp_path, "small")
    assert len(kept) == 2 * len(done[1])
    assert {r.commit for r in kept} == {r.commit for r in records}
    direct = figures_of([r.outcomes for r in records], shared_queries=False)
    again = {f.arm: f for f in figures_of([r.outcomes for r in kept], shared_queries=False)}
    for found in direct:
        same = again[found.arm]
        for one, other in ((found.served, same.served), (found.held[CHAMPIONS], same.held[CHAMPIONS])):
            assert other.cost.value == pytest.approx(one.cost.value)
            assert other.cost.low == pytest.approx(one.cost.low)
        assert same.quality.value == pytest.approx(found.quality.value)
    assert price_rows([r.taken for r in kept if r.taken.arm == "targeted"]) == price_rows(
        [r.taken for r in records if r.taken.arm == "targeted"]
    )
    write_world(tmp_path, "small", kept[:1])  # one arm anew: the others stay
    assert len(read_world(tmp_path, "small")) == len(kept)
    with pytest.raises(InputError, match="kept there: small"):
        read_world(tmp_path, "large")


def test_targeted_comes_first_and_unknown_arms_are_named() -> None:
    assert [arm.name for arm in choose_arms(["untargeted", "targeted", "untargeted"])] == ["targeted", "untargeted"]
    with pytest.raises(InputError, match="'random'"):
        choose_arms(["random"])


def test_every_arm_says_what_it_is_and_finds_what_to_buy(done: tuple[RunContext, list[ArmResult]]) -> None:
    ctx, pool = done[0], {trace.query.id for trace in load_pool(done[0])}
    chosen = {}
    for arm in ARMS.values():
        own = ctx.for_arm(arm, 3, 20)
        chosen[arm.name], _ = choose_queries(own)
        assert arm.what
        assert own.config.target.n_answers == 20
        assert 0 < len(set(chosen[arm.name])) == len(chosen[arm.name]) <= 20
        assert set(chosen[arm.name]) <= pool
    # Of so few escalations two k-means clusters are made, and random ones of the top five are random ones of all.
    assert chosen["largest-gaps"] == chosen["random-within-escalated"]
    rivals = ("targeted", "untargeted", "random-within-escalated", "margin-sampling")
    assert len({tuple(sorted(chosen[name])) for name in rivals}) == len(rivals)


def test_teachable_escalations_are_chosen_first(done: tuple[RunContext, list[ArmResult]]) -> None:
    """What is chosen lies among wrong answers more than what is not."""
    ctx = done[0]
    _, told = choose_queries(ctx.for_arm(ARMS["targeted"], 1, 120))
    assert told["dropped"].get("the cheap tier knows what is around it", 0) > 0
