"""A small ridge logistic regression: the smooth curve that predicts how a threshold will fare."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri
from scipy.stats import rankdata

FloatArray = NDArray[np.float64]


def normal_ranks(scores: FloatArray) -> FloatArray:
    """Normal scores of the ranks, ties at their middle: log-probabilities crowd near zero, ranks do not."""
    return np.asarray(ndtri((rankdata(scores) - 0.5) / max(1, scores.size)), dtype=np.float64)


def fit_logistic(columns: FloatArray, happened: NDArray[np.bool_], ridge: FloatArray) -> FloatArray:
    """Coefficients (d,) of P(happened) = expit(columns @ b), `ridge` (d,) the penalty on half of each square.

    Newton's method; with a penalty on every column it converges for separable data too.
    """
    b = np.zeros(columns.shape[1])
    y = happened.astype(np.float64)
    for _ in range(30):
        p = expit(columns @ b)
        gradient = columns.T @ (y - p) - ridge * b
        curvature = (columns * (p * (1 - p))[:, None]).T @ columns + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        # A full step can overshoot where the curve is flat.
        b = b + step * min(1.0, 3.0 / max(3.0, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-8:
            break
    return b
