"""Fit P(wrong) and the threshold to graded answers, with the parts that learn and test kept apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cascade.calibration.groups import GroupShifts, fit_shifts
from cascade.calibration.hold import hold_quality, served_right
from cascade.calibration.metrics import auroc, expected_calibration_error
from cascade.calibration.records import Calibration, CalibrationConfig, CalibrationExample
from cascade.calibration.smooth import FloatArray
from cascade.calibration.threshold import Found, Part, error_upper_bound, find_threshold
from cascade.confidence import SIGNALS
from cascade.errors import InputError

FOLDS = 5
Knots = tuple[tuple[float, ...], tuple[float, ...]]


def fit_calibration(
    examples: Sequence[CalibrationExample],
    config: CalibrationConfig,
    signal: str | None = None,
    share: float | None = None,
    floor: float | None = None,
) -> Calibration:
    """Fit P(wrong) and the loosest threshold that keeps the error among accepted within the target.

    `signal` names the feature to judge by, where it is not one of the configured confidence signals; `share` is that
    of `split_parts`. With `floor` the threshold is stricter than the promise asks where otherwise less than this share
    of what is served on all examples would be right. Answers that fail the rules or carry no score are never accepted
    and never count among the accepted. With groups the promise is still that of all accepted answers together, not of
    each group.
    Deterministic for a seed. Raises InputError with fewer than two examples.
    """
    if len(examples) < 2:
        raise InputError(f"{len(examples)} graded answers cannot calibrate a verifier; give some hundreds")
    first, second = split_parts(len(examples), config, share)
    learners = [examples[i] for i in first]
    signal = signal or _choose_signal(learners, config)
    groups = _shifts(learners, signal, config)
    learn, test = _part(learners, signal, groups), _part([examples[i] for i in second], signal, groups)
    found = find_threshold(learn, test, config)
    whole = _part(examples, signal, groups)
    knots = _isotonic(whole.scores[whole.acceptable], ~whole.correct[whole.acceptable])
    flagship_right = np.array([example.flagship_correct for example in examples], dtype=bool)
    if floor is not None:
        found = _held(found, test, whole, flagship_right, floor, config)
    n, wrong = found.n_accepted, found.n_wrong
    return Calibration(
        signal=signal,
        scores=knots[0],
        p_wrong=knots[1],
        threshold=found.threshold,
        why=found.why,
        n=len(examples),
        n_tested=len(second),
        n_accepted=n,
        n_wrong_accepted=wrong,
        error_bound=None if found.threshold is None else error_upper_bound(wrong, n, config.confidence),
        max_error_accepted=config.max_error_accepted,
        confidence=config.confidence,
        auroc=auroc(test.scores[test.acceptable], test.correct[test.acceptable]),
        ece=_cross_fitted_error(whole, config.seed),
        served_right=served_right(whole, flagship_right, found.threshold),
        groups=groups,
    )


def _held(
    found: Found, test: Part, whole: Part, flagship_right: NDArray[np.bool_], floor: float, config: CalibrationConfig
) -> Found:
    """The proven threshold, or a stricter one that serves as much that is right as `floor` asks."""
    if found.threshold is None:
        return found
    threshold = hold_quality(whole, flagship_right, found.threshold, floor)
    if threshold == found.threshold:
        return found
    n, wrong = test.accepted(threshold)
    before, after = (served_right(whole, flagship_right, at) for at in (found.threshold, threshold))
    why = (
        f"accepts {n} of {len(test.scores)}: {wrong} of them were wrong, target {config.max_error_accepted:.1%}; the"
        f" promise alone would accept {found.n_accepted}, but {before:.1%} of what is served would be right in place of"
        f" {after:.1%} (at least {floor:.1%} asked)"
    )
    return Found(threshold, why, n, wrong)


def split_parts(
    n: int, config: CalibrationConfig, share: float | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(learning, testing) positions of n examples: all that is fitted to data sees the first, the second tests it.

    The learning share is the configured one, else `share` (a scorer that learns needs more), else a default.
    """
    default = 0.4 if config.by_group else 0.3 if config.signal == "auto" else 0.15
    order = np.random.default_rng(config.seed).permutation(n)
    cut = min(max(1, round(n * (config.selection_share or share or default))), n - 1)
    return order[:cut], order[cut:]


def _choose_signal(examples: Sequence[CalibrationExample], config: CalibrationConfig) -> str:
    """The signal of best AUROC among those that nine in ten passing answers carry; the first of equals."""
    if config.signal != "auto":
        return config.signal
    passing = [example for example in examples if example.passes_rules]
    best, best_auroc = str(SIGNALS[0]), -1.0
    for signal in sorted({name for example in passing for name in example.features}, key=_rank):
        part = _part(passing, signal)
        if part.acceptable.sum() < 0.9 * len(passing):
            continue
        found = auroc(part.scores[part.acceptable], part.correct[part.acceptable])
        if found is not None and found > best_auroc:
            best, best_auroc = signal, found
    return best


def _rank(signal: str) -> tuple[int, str]:
    return (list(SIGNALS).index(signal) if signal in SIGNALS else len(SIGNALS), signal)


def _shifts(examples: Sequence[CalibrationExample], signal: str, config: CalibrationConfig) -> GroupShifts:
    if not config.by_group:
        return GroupShifts()
    part = _part(examples, signal)
    groups = [example.group for example, usable in zip(examples, part.acceptable, strict=True) if usable]
    return fit_shifts(part.scores[part.acceptable], ~part.correct[part.acceptable], groups, config.seed)


def _part(examples: Sequence[CalibrationExample], signal: str, groups: GroupShifts | None = None) -> Part:
    shifts = groups or GroupShifts()
    scores = np.array(
        [
            -np.inf if (score := example.features.get(signal)) is None else shifts.adjusted(score, example.group)
            for example in examples
        ],
        dtype=np.float64,
    )
    passes = np.array([example.passes_rules for example in examples], dtype=bool)
    correct = np.array([example.correct for example in examples], dtype=bool)
    return Part(scores, passes & np.isfinite(scores), correct)


def _isotonic(scores: FloatArray, wrong: NDArray[np.bool_]) -> Knots:
    """Knots (scores, P(wrong)) of an isotonic fit; empty where there are no scores."""
    from sklearn.isotonic import IsotonicRegression

    if not scores.size:
        return (), ()
    fit = IsotonicRegression(y_min=0.0, y_max=1.0, increasing=False).fit(scores, wrong.astype(np.float64))
    return tuple(fit.X_thresholds_.tolist()), tuple(fit.y_thresholds_.tolist())


def _cross_fitted_error(part: Part, seed: int) -> float | None:
    scores, wrong = part.scores[part.acceptable], ~part.correct[part.acceptable]
    if scores.size < 2 * FOLDS:
        return None
    fold = np.random.default_rng(seed).permutation(scores.size) % FOLDS
    predicted = np.empty(scores.size)
    for held in range(FOLDS):
        predicted[fold == held] = np.interp(scores[fold == held], *_isotonic(scores[fold != held], wrong[fold != held]))
    return expected_calibration_error(predicted, wrong)
