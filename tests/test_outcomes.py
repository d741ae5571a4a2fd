"""What a comparison reads from the arms' folders."""

from __future__ import annotations

import numpy as np

from cascade.trace import Outcome, Verdict
from evaluation.matched import accepted_at_quality
from flows.outcomes import swept


def _row(query_id: str, score: float | None, cheap: float) -> dict:
    side = {"score": score, "passes_rules": score is not None, "accepted": False, "correct_cheap": cheap}
    return {"query_id": query_id, "flagship_cost_usd": 1.0, "candidate": {**side, "cost_usd": 1.1}}


def test_rows_of_one_step_are_told_apart_by_the_score() -> None:
    # Three rows share a P(wrong); only the score says that the wrong one is the least sure of them.
    rows = [_row("a", 0.9, 1.0), _row("b", 0.9, 0.0), _row("c", 0.9, 1.0), _row("d", None, 1.0)]
    scores = {"a": 0.97, "b": 0.91, "c": 0.95, "d": 0.99}
    verdicts = {i: Verdict(Outcome.ACCEPT, None, (), score=score) for i, score in scores.items()}
    found = swept(rows, "candidate", verdicts, np.ones(4))
    assert found.own_usd.round(9).tolist() == [0.1] * 4
    assert accepted_at_quality(found, 1.0).tolist() == [True, False, True, False]
    # Without scores a step is taken or left as a whole.
    blind = swept(rows, "candidate", {}, np.ones(4))
    assert accepted_at_quality(blind, 1.0).tolist() == [False] * 4
    assert accepted_at_quality(blind, 0.75).tolist() == [True, True, True, False]
