import math
from dataclasses import replace

import pytest
from loopback import PRICES, completion, make_query, serve

from cascade.calibration import Calibration, CalibrationConfig
from cascade.cascade import Cascade, cold_start, rejudge
from cascade.client import OpenAITier
from cascade.errors import BudgetExceeded, ConfigError, InputError, TierError
from cascade.purchase import AnswerStore, Budget, Buyer
from cascade.request import OpenAITierConfig
from cascade.sql_store import SqlTraceStore
from cascade.trace import Answer, Outcome, TokenConfidence
from cascade.verifiers import RulesConfig, Verifier


class Student:
    """A cheap tier that is right and sure on even questions, wrong and unsure on odd ones."""

    def __init__(self):
        self.seen = []

    def answer(self, queries, *, progress=True):
        self.seen += [query.id for query in queries]
        return [self._one(int(query.id[1:])) for query in queries]

    def _one(self, number):
        right = number % 2 == 0
        logprob = math.log(0.99 if right else 0.4) - number * 1e-6
        confidence = TokenConfidence(2, logprob, logprob, logprob, None)
        text = f"answer to question {number}" if right else "nonsense"
        return Answer(text, "small", 10, 2, 0.001, "stop", confidence)


NUMBERS = {"n": 2, "n_tested": 1, "n_accepted": 1, "n_wrong_accepted": 0, "error_bound": 0.0}
TARGET = {"max_error_accepted": 0.05, "confidence": 0.95, "auroc": None, "ece": None}
VERIFIER = Verifier(RulesConfig(), Calibration("mean_logprob", (-1.0, 0.0), (1.0, 0.0), -0.5, "", **NUMBERS, **TARGET))
QUERIES = [make_query(n) for n in range(20)]
CHEAP_USD, FLAGSHIP_USD = PRICES.price("small").usd(10, 2), PRICES.price("large").usd(10, 5)


@pytest.fixture
def store(tmp_path):
    opened = SqlTraceStore(tmp_path / "traces.db")
    yield opened
    opened.close()


@pytest.fixture
def answers(tmp_path):
    opened = AnswerStore(tmp_path / "answers.db")
    yield opened
    opened.close()


def tier(url, **fields):
    return OpenAITier(OpenAITierConfig(**({"model": "large", "base_url": url, "max_retries": 0} | fields)))


def cascade(flagship, verifier=VERIFIER, audit_rate=0.0, cheap=None):
    return Cascade(cheap or Student(), verifier, flagship, PRICES, "v1", audit_rate, seed=0)


def test_rejected_answers_escalate_and_accepted_ones_are_served(store):
    with serve() as server:
        report = cascade(tier(server.url)).serve(QUERIES, store, chunk=6, progress=False)
    traces = store.between(None, None)
    assert [trace.query for trace in traces] == QUERIES
    assert [trace.escalated for trace in traces] == [n % 2 == 1 for n in range(20)]
    assert [trace.served_text for trace in traces] == [f"answer to question {n}" for n in range(20)]
    assert (report.n, report.n_escalated, report.n_audited, report.n_failed, report.n_skipped) == (20, 10, 0, 0, 0)
    assert report.escalation_rate == 0.5
    assert report.cost_usd == pytest.approx(20 * CHEAP_USD + 10 * FLAGSHIP_USD)
    assert traces[0].cost_usd == pytest.approx(CHEAP_USD)
    assert traces[1].cost_usd == pytest.approx(CHEAP_USD + FLAGSHIP_USD)
    assert traces[0].cheap_version == "v1"
    assert len(server.bodies) == 10


def test_without_a_verifier_everything_escalates(store):
    with serve() as server:
        report = cascade(tier(server.url), verifier=None).serve(QUERIES, store, progress=False)
    assert report.n_escalated == 20
    assert {trace.verdict.outcome for trace in store.between(None, None)} == {Outcome.UNPARSED}


def test_a_served_query_is_not_served_again(store):
    with serve() as server:
        cascade(tier(server.url)).serve(QUERIES[:12], store, progress=False)
        student = Student()
        report = cascade(tier(server.url), cheap=student).serve([*QUERIES, QUERIES[-1]], store, progress=False)
    assert student.seen == [query.id for query in QUERIES[12:]]
    assert (report.n, report.n_skipped, store.count()) == (8, 13, 20)
    assert len(server.bodies) == 10


def test_audits_are_a_fixed_share_with_their_own_cost(store):
    many = [make_query(2 * n) for n in range(400)]
    with serve() as server:
        served = cascade(tier(server.url), audit_rate=0.1)
        report = served.serve(many, store, progress=False)
    traces = store.between(None, None)
    audited = [trace for trace in traces if trace.audited]
    assert report.n_audited == len(audited) == len(server.bodies)
    assert 20 <= len(audited) <= 60
    assert {trace.query.id for trace in audited} == {query.id for query in many if served.is_audited(query.id)}
    assert all(trace.flagship is not None and not trace.escalated for trace in audited)
    assert report.cost_usd == pytest.approx(400 * CHEAP_USD)
    assert report.audit_cost_usd == pytest.approx(len(audited) * FLAGSHIP_USD)
    assert {trace.audit_propensity for trace in traces} == {0.1}
    assert {trace.served_text for trace in audited} == {trace.cheap.text for trace in audited}


def test_audit_rates_at_the_ends():
    assert not any(cascade(None, audit_rate=0.0).is_audited(f"q{n}") for n in range(50))
    assert all(cascade(None, audit_rate=1.0).is_audited(f"q{n}") for n in range(50))
    with pytest.raises(ConfigError, match=r"audit_rate is 1\.5"):
        cascade(None, audit_rate=1.5)


def test_a_flagship_failure_leaves_no_trace_and_is_retried_the_next_time(store):
    def picky(body, n):
        bad = body["messages"][0]["content"] == "question 3"
        return (400, {"error": {"message": "no"}}) if bad else (200, completion("x"))

    with serve(picky) as server:
        report = cascade(tier(server.url)).serve(QUERIES, store, progress=False)
    assert (report.n, report.n_failed) == (19, 1)
    assert report.failure.startswith("status 400")
    assert "q0003" not in store.ids()
    with serve() as server:
        assert cascade(tier(server.url)).serve(QUERIES, store, progress=False).n == 1
    assert server.questions == ["question 3"]


def test_only_a_total_failure_is_an_error(store):
    odd = [make_query(2 * n + 1) for n in range(10)]
    with (
        serve(lambda *_: (401, {"error": {"message": "bad key"}})) as server,
        pytest.raises(TierError, match="all 10 failed: status 401"),
    ):
        cascade(tier(server.url)).serve(odd, store, progress=False)
    assert store.count() == 0


def test_missing_usage_makes_the_cost_unknown_not_zero(store):
    with serve(lambda *_: (200, completion("x", usage=None))) as server:
        report = cascade(tier(server.url)).serve(QUERIES[:4], store, progress=False)
    assert report.cost_usd is None
    assert [trace.cost_usd is None for trace in store.between(None, None)] == [False, True, False, True]


def test_escalating_through_a_buyer_asks_once_and_stops_at_the_budget(store, answers):
    with serve() as server:
        shop = Buyer(tier(server.url, max_tokens=5, concurrency=2), PRICES, answers, Budget(0.0))
        shop.budget.limit_usd = shop.worst_case_usd(QUERIES[0]) + 2 * FLAGSHIP_USD
        with pytest.raises(BudgetExceeded):
            cascade(shop).serve(QUERIES, store, progress=False)
        assert len(server.bodies) == answers.count() == 3
        # All ten accepted ones and the three that were paid for are traced.
        assert store.count() == 13
        shop.budget.limit_usd = 1.0
        assert cascade(shop).serve(QUERIES, store, progress=False).n == 7
    assert len(server.questions) == len(set(server.questions)) == 10


def test_cold_start_learns_what_the_student_can_do(answers):
    queries = [make_query(n) for n in range(300)]
    with serve() as server:
        shop = Buyer(tier(server.url), PRICES, answers, Budget(1.0))
        config = CalibrationConfig(max_error_accepted=0.05)
        verifier = cold_start(queries, Student(), shop, config, RulesConfig(), grade_kind="exact", progress=False)
    assert verifier.calibration.n == 300
    assert verifier.calibration.auroc == 1.0
    judged = [verdict.accepted for verdict in verifier.judge(queries, Student().answer(queries))]
    assert 120 <= sum(judged) <= 150, verifier.calibration.why
    assert not any(judged[1::2])


def test_a_cold_start_without_log_probabilities_buys_nothing(answers):
    class Mute(Student):
        def answer(self, queries, *, progress=True):
            return [replace(answer, confidence=None) for answer in super().answer(queries)]

    with serve() as server:
        shop = Buyer(tier(server.url), PRICES, answers, Budget(1.0))
        config = CalibrationConfig(max_error_accepted=0.05)
        with pytest.raises(InputError, match="sent no log-probabilities"):
            cold_start(QUERIES, Mute(), shop, config, RulesConfig(), grade_kind="exact", progress=False)
        assert server.questions == []


def test_a_stricter_verifier_shows_what_a_lenient_one_hid(store):
    lenient = replace(VERIFIER, calibration=replace(VERIFIER.calibration, threshold=-2.0))
    with serve() as server:
        cascade(tier(server.url), lenient).serve(QUERIES, store, progress=False)
    served = store.between(None, None)
    assert not any(trace.escalated for trace in served)
    judged = rejudge(served, VERIFIER, 0.5)
    assert [trace.escalated for trace in judged] == [number % 2 == 1 for number in range(20)]
    assert {trace.cost_usd for trace in judged if trace.escalated} == {0.5}
    assert all(trace.verdict.outcome is Outcome.REJECT for trace in judged if trace.escalated)


def test_what_was_escalated_stays_so_under_a_lenient_verifier(store):
    lenient = replace(VERIFIER, calibration=replace(VERIFIER.calibration, threshold=-2.0))
    with serve() as server:
        cascade(tier(server.url)).serve(QUERIES, store, progress=False)
    served = store.between(None, None)
    assert rejudge(served, lenient, 0.5) == served
