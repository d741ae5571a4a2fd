"""What a comparison of arms found: results per arm, figures over seeds with intervals, tables, the page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cascade.errors import InputError
from evaluation.experiment import Resampled, SeedOutcome, difference, gain, resample, saving, times_as_much
from evaluation.intervals import FloatArray, Interval
from evaluation.report import EvaluationReport
from flows.arms import ARMS, TARGETED, UNTARGETED
from flows.assess import training_usd
from flows.context import RunContext
from flows.records import BUILD, EVALUATE, TRAIN, load_report
from flows.rundir import read_json, read_jsonl, write_json
from flows.summary import cut, percent, points
from promotion.gate import decide

Measure = Literal["cost", "escalations", "quality"]
CONFIDENCE = 0.9


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
    return {arm: [_outcome(r.folder / "pairs.jsonl", measure) for r in own] for arm, own in arms.items()}


def _outcome(path: Path, measure: Measure) -> SeedOutcome:
    pairs = np.array([[_value(row[side], measure) for side in ("champion", "candidate")] for row in read_jsonl(path)])
    if np.isnan(pairs).any():
        raise InputError(f"{path}: the cost of some queries is unknown (an endpoint gave no token counts)")
    return SeedOutcome(pairs[:, 0], pairs[:, 1])


def _value(side: Mapping[str, Any], measure: Measure) -> float:
    if measure == "escalations":
        return float(not side["accepted"])
    value = side["cost_usd" if measure == "cost" else "served_correct"]
    return float("nan") if value is None else float(value)


@dataclass(frozen=True, slots=True)
class Figures:
    """One arm at one number of answers, over all seeds."""

    arm: str
    level: int
    seeds: int
    cost: Interval
    """Relative cost saving."""
    escalations: Interval
    """Relative cut of escalations."""
    quality: Interval
    """Mean difference of served grades."""
    over_untargeted: Interval | None
    """How much more cost it saves than untargeted, in shares of the champion's cost; None of untargeted itself."""
    times_untargeted: Interval | None
    """How many times untargeted's cost saving; None where that is not told apart from zero."""


def figures(results: Sequence[ArmResult], *, shared_queries: bool = True) -> list[Figures]:
    """Every arm at every number of answers, with intervals over queries and seeds. `shared_queries`: all seeds are of
    one run, and so have the same held-out queries."""
    found = []
    for level, arms in sorted(by_level(results).items()):
        drawn = {
            m: resample(outcomes(arms, m), CONFIDENCE, shared_queries=shared_queries)
            for m in ("cost", "escalations", "quality")
        }
        found += [_figures(arm, level, len(own), drawn) for arm, own in arms.items()]
    return found


def _figures(arm: str, level: int, seeds: int, drawn: Mapping[str, Resampled]) -> Figures:
    cost = drawn["cost"]
    other = UNTARGETED.name if arm != UNTARGETED.name and UNTARGETED.name in cost.outcomes else None
    return Figures(
        arm=arm,
        level=level,
        seeds=seeds,
        cost=saving(cost, arm),
        escalations=saving(drawn["escalations"], arm),
        quality=gain(drawn["quality"], arm),
        over_untargeted=difference(cost, arm, other) if other else None,
        times_untargeted=times_as_much(cost, arm, other) if other else None,
    )


def rows_of(found: Sequence[Figures]) -> list[dict[str, Any]]:
    """The table of figures: one row per number of answers and arm."""
    return [
        {
            "answers": f"{f.level:,}",
            "arm": f.arm,
            "cost": cut(f.cost),
            "escalations": cut(f.escalations),
            "quality": points(f.quality),
            "more than untargeted": points(f.over_untargeted) if f.over_untargeted else "-",
            "times untargeted": times(f.times_untargeted),
        }
        for f in found
    ]


def price_rows(results: Sequence[ArmResult]) -> list[dict[str, Any]]:
    """What each arm takes: flagship answers, training, and queries until the saving has paid for both."""
    rows = []
    for level, arms in sorted(by_level(results).items()):
        for arm, own in arms.items():
            rows.append(
                {
                    "answers": f"{level:,}",
                    "arm": arm,
                    "used": _mean_text([r.answers for r in own], ",.0f"),
                    "flagship USD": _mean_text([r.answers_usd for r in own], ".4f"),
                    "training tokens": _mean_text([r.train_tokens for r in own], ",.0f"),
                    "training s": _mean_text([r.train_seconds for r in own], ",.0f"),
                    "training USD": _mean_text([r.train_usd for r in own], ".4f"),
                    "queries until paid back": _payback(own),
                }
            )
    return rows


def times(found: Interval | None) -> str:
    """A ratio of savings with its interval; an end that no resample bounds is open."""
    if found is None:
        return "-"
    high = "open" if found.high == float("inf") else f"{found.high:.1f}"
    return f"{found.value:.1f} [{found.low:.1f}, {high}]"


def headline(found: Sequence[Figures]) -> str:
    """The result in one sentence, at the largest number of answers that both arms have."""
    pairs = {(f.level, f.arm): f for f in found}
    levels = [level for level, arm in pairs if arm == UNTARGETED.name and (level, TARGETED.name) in pairs]
    if not levels:
        return "No untargeted arm was run: nothing to compare with."
    ours, other = pairs[max(levels), TARGETED.name], pairs[max(levels), UNTARGETED.name]
    ratio = ours.times_untargeted
    tail = f", {times(ratio)} times as much" if ratio else "; the latter is not told apart from zero"
    return (
        f"With {max(levels):,} flagship answers, targeted distillation changes the cascade's cost by {cut(ours.cost)}"
        f" and untargeted by {cut(other.cost)}{tail}, at a quality difference of {points(ours.quality)} and"
        f" {points(other.quality)} ({CONFIDENCE:.0%} intervals over queries"
        f"{f' and {ours.seeds} seeds' if ours.seeds > 1 else ', one seed'})."
    )


def what_arms_are(results: Sequence[ArmResult]) -> list[dict[str, str]]:
    """Name and meaning of each arm that was run."""
    return [{"arm": name, "what": ARMS[name].what} for name in dict.fromkeys(r.arm for r in results)]


def _payback(own: Sequence[ArmResult]) -> str:
    """Mean over seeds of what answers and training cost, by the mean saving per query."""
    spent = [None if r.answers_usd is None or r.train_usd is None else r.answers_usd + r.train_usd for r in own]
    saved = [r.report.overall.champion.cost_per_1000_usd for r in own]
    after = [r.report.overall.candidate.cost_per_1000_usd for r in own]
    if any(x is None for x in (*spent, *saved, *after)):
        return "unknown"
    per_query = float(np.mean([b.value - a.value for b, a in zip(saved, after, strict=True) if b and a])) / 1000
    return "never" if per_query <= 0 else f"{np.mean([x for x in spent if x is not None]) / per_query:,.0f}"


def _mean_text(values: Sequence[float | None], form: str) -> str:
    known: FloatArray = np.array([value for value in values if value is not None], np.float64)
    return format(float(known.mean()), form) if len(known) == len(values) else "unknown"
