"""The monitor's checks: what they catch, what they leave alone, and what they name as the cause."""

from __future__ import annotations

import zlib
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cache

import numpy as np
import pytest

from cascade.cost import Price, PriceTable
from cascade.trace import Answer, Outcome, Query, Trace, Verdict
from monitoring.drift import in_new_groups, own_radius, tell_apart
from monitoring.fixed_set import check_verifier
from monitoring.policy import MonitorPolicy
from monitoring.records import Cause, Name, Status
from monitoring.reference import FixedRow, Reference, prices_at, rows_of_traces
from monitoring.tally import Counting, by_week, merged, monday, tally
from monitoring.watch import Service, look
from monitoring.weekly import began

POLICY = MonitorPolicy(sample=400)
START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
RISE = datetime(2026, 2, 2, tzinfo=UTC)
PRICES = PriceTable(
    prices={
        "small": (Price(0.12, 0.6, date=date(2026, 1, 1)),),
        "large": (Price(3, 15, date=date(2026, 1, 1)), Price(4.5, 22.5, date=RISE.date())),
    }
)
FLAT = PriceTable(prices={"small": Price(0.12, 0.6), "large": Price(3, 15)})


class Threshold:
    """Accepts what scores at least so much; the score is the answer's text."""

    def __init__(self, least):
        self.least = least

    def judge(self, queries, answers):
        return [Verdict(Outcome.ACCEPT if float(a.text) >= self.least else Outcome.REJECT, None, ()) for a in answers]


@cache
def kind_of(text):
    """A known kind lies on one side of the sphere, a new one on the other."""
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    side = -1.0 if text.startswith("new") else 1.0
    vector = np.concatenate([[side], rng.normal(0, 0.25, 7)])
    return vector / np.linalg.norm(vector)


def embed(texts):
    return np.array([kind_of(text) for text in texts], np.float32)


def traffic(start, n, *, rate=0.2, wrong=0.03, new=0.0, seed=0, days=7, version="v1", audit=0.2):
    """Traces of some days: `rate` escalates, `wrong` of the accepted are wrong, `new` are of a new kind."""
    rng = np.random.default_rng(seed)
    traces = []
    for i in range(n):
        time = start + timedelta(days=days) * (i / n)
        text = f"{'new' if rng.random() < new else 'old'} {start:%d%m} {i} {seed}"
        query = Query(f"{start:%Y%m%d}-{i}-{seed}", time, "r", ({"role": "user", "content": text},))
        escalated = rng.random() < rate
        audited = not escalated and rng.random() < audit
        score = rng.uniform(0, 0.5) if escalated else rng.uniform(0.5, 1)
        right = "0.0" if not escalated and rng.random() < wrong else f"{score:.6f}"
        cheap = Answer(f"{score:.6f}", "small", 40, 20, 0.1, "stop")
        flagship = Answer(right, "large", 40, 20, 0.5, "stop") if escalated or audited else None
        verdict = Verdict(Outcome.REJECT if escalated else Outcome.ACCEPT, None, (), score)
        cost = (40 * 0.12 + 20 * 0.6 + (40 * 3 + 20 * 15) * escalated) / 1e6
        traces.append(Trace(query, cheap, version, verdict, escalated, audited, audit, flagship, cost))
    return traces


def reference_of(traces, prices=FLAT):
    until = START + timedelta(days=7)
    return Reference(
        model="base", version="v1", source="its first days", until=until, n=len(traces),
        n_escalated=sum(t.escalated for t in traces), prices=prices_at(prices, until),
        texts={t.query.id: t.query.text for t in traces[:400]},
        rows=tuple(rows_of_traces(traces, "exact", "flagship", 600)),
    )  # fmt: skip


REFERENCE = reference_of(traffic(START, 1500))


def looked(weeks, *, prices=FLAT, least=0.5, reference=REFERENCE, sample=100):
    """A look at the end of some weeks of traffic, from the end of the reference on. A small sample: without drift."""
    policy = POLICY.model_copy(update={"sample": sample})
    traces = [trace for week in weeks for trace in week]
    how = Counting(prices, reference.prices, "exact", "flagship", sample)
    days = {}
    for trace in traces:
        days.setdefault(trace.query.time.date(), []).append(trace)
    service = Service("test", "v1", Threshold(least), 0.05, prices, embed)
    counted = {day: tally(found, how) for day, found in days.items()}
    return look(service, reference, counted, traces[-1].query.time, policy)


def week(number, **changes):
    return traffic(START + timedelta(weeks=number), 1500, seed=number, **changes)


def check(watch, name):
    return next(c for c in watch.checks if c.name is name)


def causes(watch):
    return {finding.cause for finding in watch.findings}


def test_quiet_weeks_are_quiet_and_every_check_speaks():
    found = looked([week(1), week(2), week(3)], sample=400)
    assert found.findings == ()
    assert {c.name: c.status for c in found.checks} == dict.fromkeys(Name, Status.OK)
    escalation = check(found, Name.ESCALATION)
    assert escalation.low < escalation.value < escalation.high < 1
    assert [p.week for p in escalation.series] == [date(2026, 1, 12), date(2026, 1, 19), date(2026, 1, 26)]
    assert sum(p.n for p in escalation.series) == found.n == 4500


def test_new_traffic_is_named_with_its_week():
    found = looked([week(1), week(2), week(3, new=0.3, rate=0.42)], sample=400)
    assert causes(found) == {Cause.TRAFFIC}
    finding = found.findings[0]
    assert finding.began == date(2026, 1, 26) and finding.improvable
    assert set(finding.checks) == {Name.DRIFT, Name.NEW, Name.ESCALATION}
    assert check(found, Name.DRIFT).value == pytest.approx(0.5 + 0.3 / 2, abs=0.04)
    assert check(found, Name.NEW).value == pytest.approx(0.3, abs=0.06)


def test_a_small_rise_over_four_weeks_is_found_and_dated():
    reference = reference_of(traffic(START, 6000))
    weeks = [week(1), *(week(n, rate=0.288) for n in (2, 3, 4, 5))]
    assert causes(looked(weeks[:2], reference=reference)) == set()
    found = check(looked(weeks, reference=reference), Name.ESCALATION)
    assert found.status is Status.ALARM and found.n == 6000
    assert found.began == date(2026, 1, 19)


def test_a_rise_within_the_margin_is_left_alone():
    assert causes(looked([week(n, rate=0.24) for n in range(1, 7)])) == set()


def test_more_escalations_of_the_same_traffic_under_the_same_verifier_are_the_answers():
    assert causes(looked([week(1), week(2, rate=0.4)])) == {Cause.ANSWERS}
    assert causes(looked([week(1), week(2, wrong=0.25)])) == {Cause.ANSWERS}


def test_the_verifier_is_told_from_the_traffic():
    lenient = looked([week(1), week(2, rate=0.1, wrong=0.15)], least=0.3)
    assert causes(lenient) == {Cause.LENIENT}
    found = check(lenient, Name.VERIFIER)
    assert not found.falling and found.low > POLICY.verifier_margin
    strict = looked([week(1), week(2, rate=0.4)], least=0.7)
    assert causes(strict) == {Cause.STRICT}
    found = check(strict, Name.VERIFIER)
    assert found.falling and found.high < -POLICY.verifier_margin
    both = looked([week(1), week(2, rate=0.5, new=0.3)], least=0.7, sample=400)
    assert causes(both) == {Cause.STRICT, Cause.TRAFFIC}


def test_a_price_rise_is_named_with_its_day():
    reference = reference_of(traffic(START, 1500), PRICES)
    weeks = [week(n) for n in (1, 2, 3)]
    assert causes(looked(weeks, prices=PRICES, reference=reference)) == set()
    found = looked([*weeks, week(4)], prices=PRICES, reference=reference)
    assert causes(found) == {Cause.PRICES}
    finding = found.findings[0]
    assert finding.began == RISE.date()
    assert "large 3/15 -> 4.5/22.5 USD per million tokens in/out from 2026-02-02" in finding.evidence
    assert check(found, Name.PRICE).value == pytest.approx(0.5 * (1 - 16.8 / (16.8 + 0.2 * 420)), abs=0.02)


def test_a_flat_price_that_was_edited_is_a_rise_too():
    dearer = PriceTable(prices={"small": Price(0.12, 0.6), "large": Price(6, 30)})
    assert causes(looked([week(1)], prices=dearer)) == {Cause.PRICES}


def test_a_cascade_that_costs_more_than_it_should():
    dear = traffic(START, 1500, rate=0.62)
    found = looked([week(1, rate=0.62)], reference=reference_of(dear))
    assert causes(found) == {Cause.COST}
    exact = 0.62 + (40 * 0.12 + 20 * 0.6) / (40 * 3 + 20 * 15)
    assert check(found, Name.COST).value == pytest.approx(exact, abs=0.03)


def test_a_cost_began_where_it_passed_its_bar():
    found = looked([week(1), week(2), week(3, rate=0.75)])
    assert check(found, Name.COST).began == date(2026, 1, 26)
    assert causes(found) == {Cause.ANSWERS}  # what it costs follows from what escalates


def test_too_little_is_unknown_and_never_ok():
    found = looked([traffic(START + timedelta(weeks=1), 60, audit=0.0)])
    by_name = {c.name: c.status for c in found.checks}
    assert by_name[Name.ESCALATION] is by_name[Name.QUALITY] is by_name[Name.DRIFT] is Status.UNKNOWN
    assert all(c.sentence for c in found.checks)
    assert check_verifier([], Threshold(0.5), START.date(), POLICY).status is Status.UNKNOWN
    assert check_verifier(REFERENCE.rows, None, START.date(), POLICY).status is Status.UNKNOWN


def test_the_first_hours_of_a_week_are_taken_with_the_week_before():
    monday_morning = traffic(START + timedelta(weeks=2), 20, days=0.1)
    assert check(looked([week(1), monday_morning]), Name.ESCALATION).n == 1520


def test_unknown_costs_are_left_out_and_many_of_them_make_the_check_unknown():
    weeks = week(1)
    few = [replace(t, cost_usd=None) if i % 20 == 0 else t for i, t in enumerate(weeks)]
    many = [replace(t, cost_usd=None) if i % 4 == 0 else t for i, t in enumerate(weeks)]
    assert check(looked([few]), Name.COST).status is Status.OK
    assert check(looked([many]), Name.COST).status is Status.UNKNOWN


def test_the_beginning_is_where_the_change_is():
    found = looked([week(n, rate=0.2 if n < 5 else 0.4) for n in range(1, 8)])
    series = check(found, Name.ESCALATION).series
    assert began(series, 0.2) == START.date() + timedelta(weeks=5)
    assert began([], 0.2) is None


def test_tallies_add_up_and_their_samples_agree():
    traces = week(1)
    how = Counting(FLAT, REFERENCE.prices, "exact", "flagship", 100)
    whole = tally(traces, how)
    parts = merged([tally(traces[:700], how), tally(traces[700:], how)], 100)
    assert parts.texts == whole.texts and len(whole.texts) == 100
    for name in ("n", "n_escalated", "n_priced", "audited", "versions"):
        assert getattr(parts, name) == getattr(whole, name)
    for name in ("usd", "usd_squared", "then_usd", "now_usd"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name))
    assert parts.then_usd == pytest.approx(parts.usd)
    assert list(by_week({traces[0].query.time.date(): whole})) == [monday(traces[0].query.time)]


def test_reference_round_trip_and_forgetting():
    row = REFERENCE.to_dict()
    assert Reference.from_dict(row) == REFERENCE
    gone = {REFERENCE.rows[0].query.id, next(iter(REFERENCE.texts))}
    rest = REFERENCE.without(gone)
    assert not gone & {r.query.id for r in rest.rows} and not gone & set(rest.texts)
    assert rest.n == REFERENCE.n


def test_fixed_rows_are_half_accepted_and_know_what_was_checked():
    rows = REFERENCE.rows
    assert sum(r.accepted for r in rows) >= 300
    assert {r.right for r in rows if not r.accepted} <= {True, False}
    assert {r.weight for r in rows if r.accepted and r.right is not None} == {5.0}
    assert any(r.accepted and r.right is None for r in rows)


def test_an_unchanged_verifier_moves_nothing():
    same = check_verifier(REFERENCE.rows, Threshold(0.5), START.date(), POLICY)
    assert same.status is Status.OK and same.value == 0


def test_telling_apart_says_nothing_of_equals_and_half_the_share_of_strangers():
    rng = np.random.default_rng(3)
    base, same = (embed([f"old {side} {i}" for i in range(600)]) for side in "ab")
    equal = tell_apart(same, base, 0.95)
    assert equal.low < 0.5 < equal.high
    mixed = embed([f"{'new' if rng.random() < 0.4 else 'old'} c {i}" for i in range(600)])
    assert tell_apart(mixed, base, 0.95).value == pytest.approx(0.7, abs=0.04)


def test_scattered_strangers_are_no_new_group():
    base = embed([f"old {i}" for i in range(500)])
    radius = own_radius(base)
    rng = np.random.default_rng(1)
    scattered = np.zeros((40, 8), np.float32)
    scattered[np.arange(40), 1 + rng.integers(0, 7, 40)] = 1
    scattered += rng.normal(0, 0.5, scattered.shape).astype(np.float32)
    scattered[:, 0] = -np.abs(scattered[:, 0])
    scattered /= np.linalg.norm(scattered, axis=1, keepdims=True)
    assert in_new_groups(scattered, base, radius, 20).sum() == 0
    assert in_new_groups(embed([f"new {i}" for i in range(300)]), base, radius, 20).mean() > 0.9


def test_a_paid_row_is_not_needed_to_replay(tmp_path):
    row = FixedRow(REFERENCE.rows[0].query, REFERENCE.rows[0].answer, None, True)
    assert check_verifier([row], Threshold(0.0), START.date(), POLICY).status is Status.OK


def test_levels_add_up_over_all_looks():
    policy = MonitorPolicy(weeks_per_false_alarm=100, looks_per_week=7)
    assert policy.alpha * 100 * 7 * 5 * 2 == pytest.approx(1)
    assert policy.confidence == pytest.approx(1 - 2 * policy.alpha)
