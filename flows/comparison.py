"""What a comparison of arms found: results per arm, figures over seeds with intervals, tables, the page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from cascade.errors import InputError
from cascade.grade import GradeKind, grade
from cascade.trace import Verdict
from evaluation.experiment import Experiment, SeedOutcome, difference, gain, measure, saving, times_as_much
from evaluation.intervals import FloatArray, Interval
from evaluation.matched import Swept, costs_at_quality
from evaluation.report import EvaluationReport
from flows.arms import TARGETED, UNTARGETED
from flows.config import HELD_QUALITY
from flows.context import RunContext
from flows.records import BASELINE, BUILD, EVALUATE, TRAIN, load_report, load_verdicts
from flows.run_cost import training_usd
from flows.rundir import read_json, read_jsonl, write_json
from flows.summary import cut, percent, points
from promotion.gate import decide

Measure = Literal["cost", "escalations", "quality"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
"""What a query cost, whether it escalated, what its answer was worth."""
CHAMPIONS = "the champion's"
"""The quality that the champion serves, at which every comparison sets the arms side by side."""
CONFIDENCE = 0.9
SIDES = ("champion", "candidate")


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm with one seed and one number of answers."""

    arm: str
    seed: int
    level: int
    """Answers that were offered."""
    answers: int
    """Flagship answers that it used."""
    bought: int
    """Of these, answers that this arm had to pay for; the others were in the traces, or an arm before had bought
    them."""
    answers_usd: float | None
    """What its answers cost at the flagship's price, whoever paid."""
    train_tokens: int
    train_seconds: float
    train_usd: float | None
    folder: Path
    """Of the evaluation."""
    report: EvaluationReport
    outcome: str

    @property
    def run_root(self) -> Path:
        """The run's folder."""
        return next(parent for parent in self.folder.parents if (parent / BASELINE).is_dir())

    def row(self) -> dict[str, Any]:
        """What the table of single results shows."""
        overall = self.report.overall
        return {
            "arm": self.arm,
            "answers": f"{self.answers:,}",
            "seed": self.seed,
            "champion": f"{overall.champion.escalation_rate.value:.1%} escalated",
            "candidate": percent(overall.candidate.escalation_rate),
            "escalations": cut(overall.paired.escalation_cut),
            "cost": cut(overall.paired.cost_saving),
            "quality": points(overall.paired.quality_difference),
            "gate": self.outcome,
        }


def result_of(ctx: RunContext) -> ArmResult:
    """What a finished arm left in its folders."""
    built, trained = (ctx.run.manifest(ctx.arm_stage(stage)) for stage in (BUILD, TRAIN))
    assert built is not None
    folder = ctx.run.stage(ctx.arm_stage(EVALUATE))
    report = load_report(folder)
    seconds = float(trained.counts["seconds"]) if trained else 0.0
    return ArmResult(
        arm=ctx.arm.name,
        seed=ctx.seed,
        level=ctx.level,
        answers=built.counts["selected"],
        bought=built.counts["flagship_bought"],
        answers_usd=built.counts["answers_worth_usd"],
        train_tokens=trained.counts["train_tokens"] if trained else 0,
        train_seconds=seconds,
        train_usd=training_usd(ctx.prices, seconds) if seconds else 0.0,
        folder=folder,
        report=report,
        outcome=str(decide(report, ctx.config.gate).outcome),
    )


def write_comparison(ctx: RunContext, results: Sequence[ArmResult]) -> Path:
    """comparison.json and comparison.html in the run's folder; returns the page's path."""
    from flows.comparison_page import write_page

    root = ctx.run.root
    rows = [{**asdict(r), "folder": str(r.folder.relative_to(root)), "report": r.report.to_dict()} for r in results]
    write_json(root / "comparison.json", rows)
    return write_page(ctx, results)


def read_comparison(root: Path) -> list[ArmResult]:
    """The results in a run's folder."""
    rows = read_json(root / "comparison.json")
    return [
        ArmResult(**{**row, "folder": root / row["folder"], "report": EvaluationReport.from_dict(row["report"])})
        for row in rows
    ]


def by_level(results: Sequence[ArmResult]) -> dict[int, dict[str, list[ArmResult]]]:
    """Results by number of answers and arm, seeds in order."""
    found: dict[int, dict[str, list[ArmResult]]] = {}
    for result in results:
        found.setdefault(result.level, {}).setdefault(result.arm, []).append(result)
    return found


def outcomes(arms: Mapping[str, Sequence[ArmResult]], measure: Measure) -> dict[str, list[SeedOutcome]]:
    """Per held-out query what the champion's cascade and each arm's cost, did or were worth. Raises InputError where a
    cost is unknown."""
    return {arm: [_outcome(_pairs(result), measure) for result in own] for arm, own in arms.items()}


def outcomes_at(arms: Mapping[str, Sequence[ArmResult]], share: float | None) -> dict[str, list[SeedOutcome]]:
    """Per held-out query what the champion's cascade and each arm's cost where the threshold of each is moved until it
    serves `share` of the flagship's quality (`evaluation.matched`); None: what the champion serves. Raises InputError
    where a cost is unknown."""
    return {arm: [_at_quality(result, _pairs(result), share) for result in own] for arm, own in arms.items()}


def _pairs(result: ArmResult) -> list[dict[str, Any]]:
    path = result.folder / "pairs.jsonl"
    rows = read_jsonl(path)
    if any(row[side]["cost_usd"] is None or row["flagship_cost_usd"] is None for row in rows for side in SIDES):
        raise InputError(f"{path}: the cost of some queries is unknown (an endpoint gave no token counts)")
    return rows


def _outcome(rows: Sequence[Mapping[str, Any]], measure: Measure) -> SeedOutcome:
    pairs = np.array([[_value(row[side], measure) for side in SIDES] for row in rows])
    return SeedOutcome(pairs[:, 0], pairs[:, 1])


def _at_quality(result: ArmResult, rows: Sequence[Mapping[str, Any]], share: float | None) -> SeedOutcome:
    kind = cast(GradeKind, result.report.grade_kind)
    flagship = np.array([grade(row["flagship"]["text"], row["reference"], kind) for row in rows])
    served = float(np.mean([row["champion"]["served_correct"] for row in rows]))
    quality = served if share is None else share * float(flagship.mean())
    folders = (result.run_root / BASELINE, result.folder)
    before, after = (
        costs_at_quality(swept(rows, side, load_verdicts(folder), flagship), quality)
        for side, folder in zip(SIDES, folders, strict=True)
    )
    return SeedOutcome(before, after)


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


@dataclass(frozen=True, slots=True)
class Savings:
    """What one arm saves of the champion's cost, and how that compares."""

    cost: Interval
    """Relative saving."""
    over_untargeted: Interval | None
    """How much more it saves than untargeted, in shares of the champion's cost; None of untargeted itself."""
    times_untargeted: Interval | None
    """How many times what untargeted saves; None where that is not told apart from zero."""
    targeted_over: Interval | None
    """How much more targeted saves than it; None of targeted itself."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One arm at one number of answers, over all seeds."""

    arm: str
    level: int
    seeds: int
    served: Savings
    escalations: Interval
    """Relative cut of escalations."""
    quality: Interval
    """Mean difference of served grades."""
    held: Mapping[str, Savings]
    """Savings at a quality that all serve, by its name: `CHAMPIONS`, and the share of the flagship's."""


def figures(results: Sequence[ArmResult], *, shared_queries: bool = True, held: float = HELD_QUALITY) -> list[Figures]:
    """Every arm at every number of answers, with intervals over queries and seeds. `shared_queries`: all seeds are of
    one run, and so have the same held-out queries. `held`: share of the flagship's quality at which arms are set side
    by side, besides the champion's own."""
    found = []
    for level, arms in sorted(by_level(results).items()):
        drawn = {kind: measure(outcomes(arms, kind), CONFIDENCE, shared_queries=shared_queries) for kind in MEASURES}
        qualities = {CHAMPIONS: None, f"{100 * held:g} % of the flagship's": held}
        at = {
            name: measure(outcomes_at(arms, share), CONFIDENCE, shared_queries=shared_queries)
            for name, share in qualities.items()
        }
        found += [
            Figures(
                arm=arm,
                level=level,
                seeds=len(own),
                served=_savings(drawn["cost"], arm),
                escalations=saving(drawn["escalations"], arm),
                quality=gain(drawn["quality"], arm),
                held={name: _savings(costs, arm) for name, costs in at.items()},
            )
            for arm, own in arms.items()
        ]
    return found


def _savings(costs: Experiment, arm: str) -> Savings:
    there = costs.whole.before
    ours = TARGETED.name if arm != TARGETED.name and TARGETED.name in there else None
    other = UNTARGETED.name if arm != UNTARGETED.name and UNTARGETED.name in there else None
    return Savings(
        cost=saving(costs, arm),
        over_untargeted=difference(costs, arm, other) if other else None,
        times_untargeted=times_as_much(costs, arm, other) if other else None,
        targeted_over=difference(costs, ours, arm) if ours else None,
    )
