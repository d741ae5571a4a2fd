"""Costs at a quality, against small cases worked by hand."""

import numpy as np
import pytest

from evaluation.crossfit import interpolated
from evaluation.frontier import (
    PairOutcomes,
    Scores,
    Served,
    cheapest,
    floor_points,
    oracle,
    random_mixing,
    saving_over_random,
    serve,
    thresholds,
)

ONE = np.ones(4)
PAIR = PairOutcomes(np.array([1.0, 1, 0, 0]), np.array([1.0, 0, 1, 1]), 0.1 * ONE, 1.0 * ONE)


def test_a_verifier_charges_every_query_and_a_router_only_what_it_keeps() -> None:
    keep = np.array([4.0, 3, 2, 1])
    judged = serve(PAIR, Scores(keep, 0.05), 2.5)
    routed = serve(PAIR, Scores(keep, before=True), 2.5)
    assert judged.usd.tolist() == pytest.approx([0.15, 0.15, 1.15, 1.15])
    assert routed.usd.tolist() == pytest.approx([0.1, 0.1, 1.0, 1.0])
    assert judged.grade.tolist() == routed.grade.tolist() == [1, 1, 1, 1]


def test_directly_sent_queries_pay_the_flagship_alone() -> None:
    direct = np.array([False, False, True, False])
    served = serve(PAIR, Scores(np.array([4.0, 3, 2, 1]), 0.05), 2.5, direct)
    assert served.usd.tolist() == pytest.approx([0.15, 0.15, 1.0, 1.15])


def test_thresholds_keep_none_at_first_and_all_at_last() -> None:
    scores = Scores(np.array([0.3, -5.0, 0.1, 2.0]))
    curve = serve(PAIR, scores, thresholds(scores))
    assert curve.usd[0].tolist() == pytest.approx([1.1] * 4)
    assert curve.usd[-1].tolist() == pytest.approx([0.1] * 4)
    level = cheapest(curve, 0.75)
    assert level is not None and curve.grade[level].mean() >= 0.75
    assert cheapest(curve, 1.01) is None


def test_random_mixing_is_the_line_between_the_tiers() -> None:
    assert PAIR.cheap_quality == 0.5 and PAIR.flagship_quality == 0.75 and PAIR.oracle_quality == 1.0
    assert random_mixing(PAIR, 0.5) == pytest.approx(0.1)
    assert random_mixing(PAIR, 0.625) == pytest.approx(0.55)
    assert random_mixing(PAIR, 0.75) == pytest.approx(1.0)
    assert random_mixing(PAIR, 0.9) is None


def test_the_oracle_escalates_only_where_the_flagship_is_better() -> None:
    assert oracle(PAIR, 0.75) == pytest.approx(0.1 + 1 / 4)
    assert oracle(PAIR, 1.0) == pytest.approx(0.1 + 2 / 4)
    assert oracle(PAIR, 1.1) is None


def test_the_floor_ends_where_nothing_or_every_error_escalates() -> None:
    points = floor_points(PAIR)
    assert points[0] == pytest.approx((0.1 + 0.5, 1.0))
    assert points[-1] == pytest.approx((0.1, 0.5))


def drawn(signal: float, n: int = 1500) -> tuple[PairOutcomes, Served]:
    rng = np.random.default_rng(3)
    cheap, flagship = (rng.random(n) < 0.6).astype(float), (rng.random(n) < 0.95).astype(float)
    pair = PairOutcomes(cheap, flagship, np.full(n, 0.02), np.ones(n))
    keep = signal * cheap + rng.random(n)
    return pair, serve(pair, Scores(keep), float(np.quantile(keep, 0.5)))


def test_a_signal_beats_random_mixing_and_noise_does_not() -> None:
    found = saving_over_random(*drawn(signal=1.0))
    none = saving_over_random(*drawn(signal=0.0))
    assert found is not None and found.low > 0.1
    # A verifier without a signal pays for the cheap answer in vain, which random mixing does not.
    assert none is not None and none.low < 0 < found.value


def test_there_is_no_line_to_a_flagship_that_is_not_better() -> None:
    worse = PairOutcomes(PAIR.flagship_grade, PAIR.cheap_grade, PAIR.cheap_usd, PAIR.flagship_usd)
    assert saving_over_random(worse, serve(worse, Scores(np.zeros(4)), -1.0)) is None


def test_a_curve_is_read_between_its_levels() -> None:
    quality, usd = np.array([1.0, 0.9, 0.7]), np.array([1.0, 0.6, 0.2])
    assert interpolated(quality, usd, 0.8) == pytest.approx(0.4)
    assert interpolated(quality, usd, 0.7) == pytest.approx(0.2)
    assert interpolated(quality, usd, 1.1) is None
