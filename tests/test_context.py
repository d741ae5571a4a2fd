"""A run's window is found in any store without reading the traces; its budget binds whatever it asks."""

import pytest
from databases import STORES, place
from loopback import completion, make_query, serve
from test_cluster_names import context
from test_forget import settings
from test_store import DAY, START, at

from cascade.errors import BudgetExceeded, InputError
from cascade.purchase import Budget, Buyer
from cascade.trace import Answer
from evaluation.judge import ServedPair, judge_pairs
from flows.config import RunConfig, WindowConfig
from flows.context import open_state, start_run
from flows.records import TRAIN
from flows.run_cost import run_cost, training_usd
from flows.stage_parts import cheap_toolbox
from flows.window import split_window
from promotion.clusters import open_history


@pytest.fixture(params=STORES)
def config(request, tmp_path) -> RunConfig:
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    found = settings(tmp_path, place(request.param, tmp_path, server))
    registry = server() if server is not None else None
    return found.model_copy(update={"registry": registry, "window": found.window.model_copy(update={"days": 7.0})})


def test_the_window_ends_at_the_newest_trace(config):
    with pytest.raises(InputError, match="no traces in"):
        start_run(config, "r")
    state = open_state(config)
    state.traces.add([at(n, START + n * DAY) for n in range(20)])
    version = state.registry.register(name="s", base_model="b")
    state.registry.promote(version.id, who="test", why="test")
    ctx = start_run(config, "r")
    assert ctx.since == START + 12 * DAY
    assert [t.query.id for t in ctx.state.traces.between(ctx.since, ctx.until)] == [f"q{n:04d}" for n in range(12, 20)]
    state.traces.add([at(50, START + 50 * DAY)])
    again = start_run(config, "r")
    assert (again.since, again.until, again.champion_id) == (ctx.since, ctx.until, "v1")


def test_a_run_goes_on_where_the_flagship_has_moved(config):
    state = open_state(config)
    state.traces.add([at(n, START + n * DAY) for n in range(20)])
    state.registry.promote(state.registry.register(name="s", base_model="b").id, who="test", why="test")
    first = start_run(config, "r")
    flagship = config.flagship.model_copy(update={"base_url": "http://127.0.0.1:4999/v1", "max_tokens": 7})
    again = start_run(config.model_copy(update={"flagship": flagship}), "r").config.flagship
    assert again.base_url == "http://127.0.0.1:4999/v1"
    assert again.max_tokens == first.config.flagship.max_tokens  # all else is the first start's


def test_the_history_of_clusters_is_in_the_registrys_database(config):
    state = open_state(config)
    state.clusters.record("r", START, "e", [])
    url = config.registry or f"sqlite:///{config.state / 'registry.db'}"
    with open_history(url) as history:
        assert history.runs() == ["r"]


def test_a_judging_verifier_is_paid_from_the_runs_budget_and_once(tmp_path):
    """Two stages of one run, as two processes of it: the second finds the verdicts, and what the first has spent."""
    asked = [make_query(n) for n in range(6)]
    answers = [Answer("42", "lab-student", 5, 5, 0.1, "stop")] * 6
    judged = completion('{"reason": "", "p_right": 0.5}')

    def judge(ctx, queries):
        (_, scorer) = cheap_toolbox(ctx, None).scorers("mean_logprob", None)
        return scorer.score(queries, answers[: len(queries)])

    with serve(lambda *_: (200, judged)) as server:
        verifier = {"judge": {"model": "lab-judge", "base_url": server.url, "max_retries": 0, "max_tokens": 16}}
        first = judge(context(tmp_path, server.url, verifier=verifier), asked)
        again = judge(context(tmp_path, server.url, verifier=verifier), asked)
        assert len(server.bodies) == 6 and [s.value for s in again] == [s.value for s in first] == [0.5] * 6
        ctx = context(tmp_path, server.url, verifier=verifier)
        spent = ctx.budget.spent_usd
        assert spent == pytest.approx(sum(s.cost_usd for s in first))
        poor = context(tmp_path, server.url, budget_usd=spent + 1e-6, verifier=verifier)
        with pytest.raises(BudgetExceeded):
            judge(poor, [make_query(99)])
        assert poor.buyer.budget is poor.budget and len(server.bodies) == 6


def test_what_a_run_cost_has_names_and_judges_in_it(tmp_path):
    """All that it bought, whoever answered, and training; not what another run or serving bought."""
    verdict = completion('{"reason": "", "p_right": 0.5, "better": "A"}')
    with serve(lambda *_: (200, verdict)) as server:
        judge = {"model": "lab-judge", "base_url": server.url, "max_retries": 0, "max_tokens": 16}
        ctx = context(tmp_path, server.url, verifier={"judge": judge}, preference_judge=judge)
        assert run_cost(ctx) is None, "not trained yet"
        ctx.run.run_stage(TRAIN, {}, {}, lambda folder: {"seconds": 3600.0})
        training = training_usd(ctx.prices, 3600.0)
        assert run_cost(ctx) == training > 0
        queries, cheap = [make_query(n) for n in range(3)], [Answer("42", "lab-student", 5, 5, 0.1, "stop")] * 3
        (_, scorer) = cheap_toolbox(ctx, None).scorers("mean_logprob", None)
        scores = scorer.score(queries, cheap)
        pairs = judge_pairs([ServedPair(q, "a", "b") for q in queries], ctx.judge_buyer(), 0.9, progress=False)[0]
        names = ctx.buyer.buy(queries[:1], "cluster names", progress=False)
        other = Buyer(ctx.flagship, ctx.prices, ctx.state.answers, Budget(1.0), run_id="another")
        other.buy([make_query(9)], "test", progress=False)
    parts = [training, *(score.cost_usd for score in scores), pairs.cost_usd, names.cost_usd]
    assert min(parts) > 0 and run_cost(ctx) == pytest.approx(sum(parts))


def test_no_more_is_labelled_than_was_said_and_the_sample_is_uniform():
    traces = [at(n, START + n * DAY / 100) for n in range(4000)]
    window = WindowConfig(pool=0.5, calibration=0.2, max_labelled=300)
    pool, calibration, heldout = split_window(traces, window, START, START + 40 * DAY, seed=3).values()
    assert pool == traces[:2000], "escalations cost nothing: the pool stays whole"
    assert (len(calibration), len(heldout)) == (300, 300)
    assert (
        calibration == sorted(calibration, key=lambda t: t.query.time)
        and calibration[-1].query.time < heldout[0].query.time
    )
    times = [(t.query.time - START) / DAY for t in heldout]
    assert abs(sum(times) / 300 - 34) < 4 * (12 / 12**0.5) / 300**0.5, (
        "the mean of 28 to 40 days, within four deviations"
    )
    assert split_window(traces, window, START, START + 40 * DAY, seed=3)["heldout"] == heldout
    everything = split_window(traces, WindowConfig(pool=0.5, calibration=0.2), START, START + 40 * DAY, seed=3)
    assert [len(part) for part in everything.values()] == [2000, 800, 1200]
