"""What an arm's cascade and its champion's cost, did and were worth on each held-out query, from the files of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from cascade.errors import InputError
from cascade.grade import GradeKind, grade
from cascade.trace import Verdict
from evaluation.experiment import SeedOutcome
from evaluation.intervals import FloatArray
from evaluation.matched import Swept, costs_at_quality
from flows.records import BASELINE, load_verdicts
from flows.rundir import read_jsonl

if TYPE_CHECKING:
    from flows.comparison import ArmResult

Measure = Literal["cost", "escalations", "quality"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
"""What a query cost, whether it escalated, what its answer was worth, as served."""
CHAMPIONS = "the champion's"
"""The quality that the champion serves, at which every comparison sets the arms side by side."""
SIDES = ("champion", "candidate")


@dataclass(frozen=True, slots=True)
class ArmOutcomes:
    """One arm with one seed and one number of answers."""

    arm: str
    seed: int
    level: int
    by_name: Mapping[str, SeedOutcome]
    """The `MEASURES`, then costs at a quality that all serve, by its name."""


def outcomes_of(result: ArmResult, held: float) -> ArmOutcomes:
    """Of a finished arm. The qualities at which costs are set side by side are the champion's and `held` of the
    flagship's; the threshold of each side is moved until it serves that (`evaluation.matched`). Raises InputError where
    a cost is unknown."""
    path = result.folder / "pairs.jsonl"
    rows = read_jsonl(path)
    if any(row[side]["cost_usd"] is None or row["flagship_cost_usd"] is None for row in rows for side in SIDES):
        raise InputError(f"{path}: the cost of some queries is unknown (an endpoint gave no token counts)")
    kind = cast(GradeKind, result.report.grade_kind)
    flagship = np.array([grade(row["flagship"]["text"], row["reference"], kind) for row in rows])
    served = float(np.mean([row["champion"]["served_correct"] for row in rows]))
    folders = (result.run_root / BASELINE, result.folder)
    sides = [swept(rows, side, load_verdicts(folder), flagship) for side, folder in zip(SIDES, folders, strict=True)]
    qualities = {CHAMPIONS: served, f"{100 * held:g} % of the flagship's": held * float(flagship.mean())}
    at = {name: SeedOutcome(*(costs_at_quality(one, quality) for one in sides)) for name, quality in qualities.items()}
    return ArmOutcomes(result.arm, result.seed, result.level, {name: _served(rows, name) for name in MEASURES} | at)


def _served(rows: Sequence[Mapping[str, Any]], measure: Measure) -> SeedOutcome:
    pairs = np.array([[_value(row[side], measure) for side in SIDES] for row in rows])
    return SeedOutcome(pairs[:, 0], pairs[:, 1])


def swept(rows: Sequence[Mapping[str, Any]], side: str, verdicts: Mapping[str, Verdict], flagship: FloatArray) -> Swept:
    """One side of the rows. P(wrong) is a step function of the score, so hundreds of rows share a value of it: within a
    step they are told apart by the score itself, as a threshold tells them."""
    sides = [row[side] for row in rows]
    usd = np.array([row["flagship_cost_usd"] for row in rows])
    paid = np.where([one["accepted"] for one in sides], 0.0, usd)
    known = np.array([one["score"] is not None and one["passes_rules"] for one in sides])
    chances = np.array([one["score"] if ok else 0.0 for one, ok in zip(sides, known, strict=True)])
    raw = [verdicts[row["query_id"]].score if row["query_id"] in verdicts else None for row in rows]
    finer = np.array([0.0 if score is None else score for score in raw])
    steps = np.unique(np.column_stack([chances, finer]), axis=0, return_inverse=True)[1].reshape(-1)
    return Swept(
        score=np.where(known, steps.astype(np.float64), -np.inf),
        cheap=np.array([one["correct_cheap"] for one in sides]),
        own_usd=np.array([one["cost_usd"] for one in sides]) - paid,
        flagship=flagship,
        flagship_usd=usd,
    )


def _value(side: Mapping[str, Any], measure: Measure) -> float:
    if measure == "escalations":
        return float(not side["accepted"])
    return float(side["cost_usd" if measure == "cost" else "served_correct"])
