"""What a comparison of arms found: results per arm, figures over seeds with intervals, tables, the page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from evaluation.experiment import Experiment, difference, gain, measure, saving, times_as_much
from evaluation.intervals import Interval
from evaluation.report import EvaluationReport
from flows.arms import TARGETED, UNTARGETED
from flows.config import HELD_QUALITY
from flows.context import RunContext
from flows.outcomes import MEASURES, ArmOutcomes, outcomes_of
from flows.records import BASELINE, BUILD, EVALUATE, TRAIN, load_report
from flows.run_cost import training_usd
from flows.rundir import read_json, write_json
from flows.summary import cut, percent, points
from promotion.gate import decide

CONFIDENCE = 0.9


@dataclass(frozen=True, slots=True)
class Taken:
    """What one arm with one seed and one number of answers took, and what it saved of a query's cost."""

    arm: str
    level: int
    answers: int
    answers_usd: float | None
    train_tokens: int
    train_seconds: float
    train_usd: float | None
    saved_usd: float | None
    """Mean of a query, as served; None where a price is unknown."""


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

    def taken(self) -> Taken:
        """What the table of prices shows."""
        sides = self.report.overall.champion.cost_per_1000_usd, self.report.overall.candidate.cost_per_1000_usd
        saved = None if sides[0] is None or sides[1] is None else (sides[0].value - sides[1].value) / 1000
        return Taken(
            self.arm,
            self.level,
            self.answers,
            self.answers_usd,
            self.train_tokens,
            self.train_seconds,
            self.train_usd,
            saved,
        )

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


Row = TypeVar("Row", "ArmResult", ArmOutcomes, Taken)


def by_level(rows: Sequence[Row]) -> dict[int, dict[str, list[Row]]]:
    """Rows by number of answers and arm, seeds in order."""
    found: dict[int, dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault(row.level, {}).setdefault(row.arm, []).append(row)
    return found


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
    return figures_of([outcomes_of(result, held) for result in results], shared_queries=shared_queries)


def figures_of(outcomes: Sequence[ArmOutcomes], *, shared_queries: bool) -> list[Figures]:
    """The same of outcomes, wherever they were kept."""
    found = []
    for level, arms in sorted(by_level(outcomes).items()):
        first = next(iter(arms.values()))[0]
        drawn = {
            name: measure(
                {arm: [own.by_name[name] for own in seeds] for arm, seeds in arms.items()},
                CONFIDENCE,
                shared_queries=shared_queries,
            )
            for name in first.by_name
        }
        found += [
            Figures(
                arm=arm,
                level=level,
                seeds=len(own),
                served=_savings(drawn["cost"], arm),
                escalations=saving(drawn["escalations"], arm),
                quality=gain(drawn["quality"], arm),
                held={name: _savings(costs, arm) for name, costs in drawn.items() if name not in MEASURES},
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
