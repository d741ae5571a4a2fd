"""The router: what it learns, when it refuses, what it leaves of the promise, and its traces."""

import json

import numpy as np
import pytest
from answered_topics import embed, world
from loopback import PRICES, serve

from cascade.calibration import CalibrationConfig, split_parts
from cascade.cascade import Cascade, rejudge
from cascade.client import OpenAITier
from cascade.cost import break_even_rate
from cascade.request import OpenAITierConfig
from cascade.router import RouterConfig, RouterTrainer, best_bound
from cascade.sql_store import SqlTraceStore
from cascade.trace import Outcome, trace_from_dict, trace_to_dict
from cascade.verifiers import (
    AnswerBank,
    LearnedConfig,
    LearnedTrainer,
    RulesConfig,
    TooLittleData,
    Verifier,
    fit_verifier,
    read_learned,
    scorer_accounts,
    store_part,
)
from cascade.verifiers.verifier import LEARNING_SHARE
from evaluation.metrics import MetricsConfig, compare
from evaluation.replay import pair_sides

CHEAP_USD, FLAGSHIP_USD = 0.5, 1.0


def trainer(cheap_usd=CHEAP_USD, flagship_usd=FLAGSHIP_USD, **settings):
    return RouterTrainer(RouterConfig(**settings), embed, None, cheap_usd, flagship_usd)


def fit(router, n=900, seed=1, max_error=0.08):
    queries, answers, references = world(n, seed)
    scorer = LearnedTrainer(LearnedConfig(folds=3), embed)
    config = CalibrationConfig(max_error_accepted=max_error, seed=seed)
    return fit_verifier(
        queries, answers, references, RulesConfig(), config, grade_kind="exact", scorers=[scorer], router=router
    )


@pytest.fixture(scope="module")
def routing():
    """A verifier whose router knows that one topic in three is beyond the cheap model."""
    return fit(trainer())


def beyond(query):
    return int(query.text.split()[1]) % 3 == 2


def test_it_routes_what_the_cheap_model_cannot_do_and_lowers_the_expected_cost(routing):
    queries, answers, references = world(1200, seed=2)
    routed = np.array([verdict is not None for verdict in routing.route(queries)])
    hopeless = np.array([beyond(query) for query in queries])
    assert routed[hopeless].mean() > 0.6
    assert routed[~hopeless].mean() < 0.1
    accepted = np.array([verdict.accepted for verdict in routing.judge(queries, answers)])
    right = np.array([a.text == r for a, r in zip(answers, references, strict=True)])
    taken = accepted & ~routed
    assert (~right[taken]).mean() <= 0.08
    # Without a router the threshold is another one: this one's promise is for what the router leaves.
    alone = np.array([verdict.accepted for verdict in fit(None).judge(queries, answers)])
    assert (~right[alone]).mean() <= 0.08
    without = CHEAP_USD + FLAGSHIP_USD * (~alone).mean()
    with_it = CHEAP_USD * (~routed).mean() + FLAGSHIP_USD * (~taken).mean()
    assert with_it < without - 0.04
    assert "straight to the flagship: expected cost per query" in routing.router.why


def test_a_share_of_the_routed_is_tried_all_the_same(routing):
    queries = [query for query in world(3000, seed=3)[0] if beyond(query)]
    explored = np.array([routing.router.explores(query.id) for query in queries])
    routed = np.array([verdict is not None for verdict in routing.route(queries)])
    assert not routed[explored].any()
    assert 0.02 < explored.mean() < 0.09


def test_the_threshold_is_tested_on_what_the_router_leaves(routing):
    plain = fit(None)
    assert routing.calibration.n == plain.calibration.n
    queries, answers, _ = world(900, seed=1)
    accepted = {
        query.id
        for query, verdict, route in zip(queries, routing.judge(queries, answers), routing.route(queries), strict=True)
        if verdict.accepted and route is None
    }
    # What it counted as accepted in the testing part is what it would accept there when it serves.
    _, test = split_parts(900, CalibrationConfig(max_error_accepted=0.08, seed=1), LEARNING_SHARE)
    assert sum(queries[i].id in accepted for i in test.tolist()) == routing.calibration.n_accepted


def test_routing_that_would_not_pay_or_cannot_be_priced_is_left_out():
    assert "would not pay" in fit(trainer(cheap_usd=0.001)).left_out["router"]
    assert "cost is unknown" in fit(trainer(flagship_usd=None)).left_out["router"]
    queries, _, references = world(60, seed=1)
    with pytest.raises(TooLittleData, match="0 of the rarer kind"):
        trainer().fit(queries, references, np.ones(60, dtype=bool), 0.0)


def test_the_bound_is_where_the_expected_cost_is_least():
    chances = np.array([0.05, 0.1, 0.1, 0.2, 0.6, 0.9] * 50)
    accepted = np.random.default_rng(0).random(len(chances)) < chances
    bound, n, saved = best_bound(chances, accepted, 0.2, 0.05, 1.0)
    assert 0.2 < bound < 0.6
    assert n == 200
    below = chances < bound
    assert saved == pytest.approx(n * 0.25 - (accepted[below].sum() + 1) * 1.0)
    # Where the chance of acceptance is below 1 - break-even, an attempt loses money.
    assert bound == pytest.approx(1 - break_even_rate(0.2, 0.05, 1.0), abs=0.2)
    assert best_bound(np.full(40, 0.5), np.arange(40) % 2 == 0, 0.2, 0.05, 1.0) == (0.0, 0, 0.0)
    # All of one chance and none accepted: all are routed.
    assert best_bound(np.full(40, 0.1), np.zeros(40, bool), 0.2, 0.05, 1.0)[1] == 40


def test_it_survives_json(routing, tmp_path):
    store_part(routing.router.model, tmp_path)
    store_part(routing.links[0].scorer, tmp_path)
    row = json.loads(json.dumps(routing.to_dict()))
    again = Verifier.from_dict(row, lambda spec: read_learned(tmp_path, spec["digest"], embed))
    queries, answers, _ = world(200, seed=4)
    assert again.route(queries) == routing.route(queries)
    assert [v.outcome for v in again.judge(queries, answers)] == [v.outcome for v in routing.judge(queries, answers)]


class Student:
    """The world's cheap model."""

    def __init__(self, seed):
        queries, answers, _ = world(300, seed)
        self.answers, self.seen = dict(zip((q.id for q in queries), answers, strict=True)), []

    def answer(self, queries, *, progress=True):
        self.seen += [query.id for query in queries]
        return [self.answers[query.id] for query in queries]


def test_a_routed_query_has_no_cheap_answer_and_costs_the_flagship_alone(routing, tmp_path):
    queries, student = world(300, seed=6)[0], Student(6)
    store = SqlTraceStore(tmp_path / "traces.db")
    with serve() as server:
        tier = OpenAITier(OpenAITierConfig(model="large", base_url=server.url, max_retries=0))
        report = Cascade(student, routing, tier, PRICES, "v1", 0.0).serve(queries, store, progress=False)
    traces = store.between(None, None)
    store.close()
    routed = [trace for trace in traces if trace.routed]
    assert report.n_routed == len(routed) > 40
    assert report.n_escalated == sum(trace.escalated for trace in traces)
    assert {query.id for query in queries} - set(student.seen) == {trace.query.id for trace in routed}
    for trace in routed:
        assert (trace.cheap, trace.verdict.outcome, trace.escalated, trace.audited) == (
            None,
            Outcome.ROUTED,
            True,
            False,
        )
        assert trace.served_text == f"answer to {trace.query.text}"
        assert trace.cost_usd == pytest.approx(PRICES.price("large").usd(10, 5))
        assert trace_from_dict(json.loads(json.dumps(trace_to_dict(trace)))) == trace
    assert scorer_accounts(trace.verdict for trace in traces)[0].n_asked == 300 - len(routed)
    assert [trace for trace in rejudge(traces, routing, 0.5) if trace.routed] == routed


def test_evaluation_counts_the_routed_apart_and_charges_them_no_attempt(routing):
    queries, answers, references = world(300, seed=7)
    flagship = [type(a)(r, "large", 10, 5, 0.0, "stop") for a, r in zip(answers, references, strict=True)]

    class Routing:
        def judge(self, asked, given):
            pairs = zip(routing.route(asked), routing.judge(asked, given), strict=True)
            return [verdict if route is None else route for route, verdict in pairs]

    rows = pair_sides(
        queries, answers, answers, flagship, champion_verifier=routing, candidate_verifier=Routing(), prices=PRICES,
        reference_kind="flagship", grade_kind="exact",
    )  # fmt: skip
    found = compare(rows, MetricsConfig(resamples=200))
    before, after = found.champion, found.candidate
    assert before.n_routed == 0
    assert after.n_routed == sum(row.candidate.routed for row in rows) > 40
    large = PRICES.price("large").usd(10, 5)
    assert {row.candidate.cost_usd for row in rows if row.candidate.routed} == {large}
    assert all(
        row.candidate.served_correct == 1.0 and not row.candidate.accepted for row in rows if row.candidate.routed
    )


def test_a_bank_of_earlier_answers_serves_the_router_too():
    earlier, _, references = world(300, seed=8)
    bank = AnswerBank.build(earlier, references, embed)
    fitted = RouterTrainer(RouterConfig(), embed, bank, CHEAP_USD, FLAGSHIP_USD)
    queries, answers, right = world(300, seed=1)
    accepted = np.array([a.text == r for a, r in zip(answers, right, strict=True)])
    router = fitted.fit(queries, right, accepted, 0.0)
    assert len(router.model.features.bank) == 600
    assert sum(chance is not None for chance in router.routed(queries)) > 50
