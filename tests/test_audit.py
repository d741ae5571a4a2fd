"""The audit slice estimates what was accepted wrongly, from the few answers that were audited."""

from dataclasses import replace

import numpy as np
import pytest
from loopback import make_query

from cascade.errors import InputError
from cascade.trace import Answer, Outcome, Trace, Verdict
from evaluation.audit import audit_slice
from evaluation.intervals import clopper_pearson, weighted_rate

FLAGSHIP = Answer("right", "large", 10, 5, None, "stop")


def trace(i, text, *, audited, propensity, escalated=False, version="v1"):
    return Trace(
        query=make_query(i),
        cheap=Answer(text, "small", 10, 5, None, "stop"),
        cheap_version=version,
        verdict=Verdict(Outcome.REJECT if escalated else Outcome.ACCEPT, 0.1, ()),
        escalated=escalated,
        audited=audited,
        audit_propensity=propensity,
        flagship=FLAGSHIP if audited or escalated else None,
        cost_usd=0.001,
    )


def look(traces, **more):
    values = {"grade_kind": "exact", "reference_kind": "flagship", "confidence": 0.9}
    return audit_slice(traces, "v1", **{**values, **more})


def test_counts_by_hand():
    traces = [
        trace(0, "right", audited=True, propensity=0.5),
        trace(1, "wrong", audited=True, propensity=0.1),
        trace(2, "wrong", audited=False, propensity=0.1),
        trace(3, "wrong", audited=False, propensity=0.0),
        trace(4, "wrong", audited=False, propensity=0.5, escalated=True),
        trace(5, "wrong", audited=True, propensity=0.5, version="v2"),
    ]
    found = look(traces)
    assert (found.n_accepted, found.n, found.n_wrong, found.n_never) == (4, 2, 1, 1)
    assert found.false_accept.value == pytest.approx(10 / 12)  # weights 2 and 10
    assert look(traces[2:5]).false_accept is None
    with pytest.raises(InputError, match="carries no reference"):
        look(traces, reference_kind="reference")


def test_equal_weights_are_clopper_pearson():
    for wrong in (0, 1, 7, 40):
        hits = [1.0] * wrong + [0.0] * (40 - wrong)
        ours, exact = weighted_rate(hits, [50.0] * 40, 0.9), clopper_pearson(wrong, 40, 0.9)
        assert (ours.value, ours.low, ours.high) == pytest.approx((exact.value, exact.low, exact.high), abs=1e-9)


@pytest.mark.parametrize("rate", [0.02, 0.08, 0.3])
def test_the_interval_covers_where_audits_are_more_likely_for_some(rate):
    # Unsure answers are audited four times as often, and are wrong three times as often.
    rng = np.random.default_rng(3)
    covered, naive = [], []
    for _ in range(400):
        unsure = rng.random(4000) < 0.3
        wrong = rng.random(4000) < np.where(unsure, 3 * rate, rate) / 1.6
        propensity = np.where(unsure, 0.12, 0.03)
        seen = rng.random(4000) < propensity
        found = weighted_rate(wrong[seen].astype(float), 1 / propensity[seen], 0.9)
        covered.append((found.low <= rate, rate <= found.high))
        naive.append(wrong[seen].mean())
    low, high = np.mean(covered, axis=0)
    assert low >= 0.93 and high >= 0.93  # each end is a bound at 95 %; two standard errors are 2.2 points
    assert np.mean(naive) > 1.15 * rate  # what the weights are for


def test_bad_weights_are_refused():
    for hits, weights in (([], []), ([1.0], [0.0]), ([1.0, 0.0], [2.0])):
        with pytest.raises(InputError, match="positive weights"):
            weighted_rate(hits, weights)


def test_a_trace_of_nobody_is_left_out():
    other = replace(trace(0, "wrong", audited=True, propensity=0.5), cheap_version="v9")
    assert look([other]).n_accepted == 0
