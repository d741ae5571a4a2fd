"""The evaluation report: everything that the gate decides upon, and its page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cascade.cost import payback
from cascade.errors import InputError
from evaluation.audit import AuditSlice
from evaluation.intervals import Interval
from evaluation.judge import JudgedDifference
from evaluation.metrics import (
    Comparison,
    MetricsConfig,
    SideMetrics,
    compare,
    compare_clusters,
    verifier_auroc,
)
from evaluation.replay import PairedRow
from evaluation.table import PairedTable, table_of


@dataclass(frozen=True, slots=True)
class SolvedCluster:
    """A cluster of an earlier run that no longer escalates, and the held-out queries that belong to it."""

    lineage: str
    """Its identity across runs."""
    name: str
    query_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Champion against candidate on one held-out slice; JSON through `to_dict` and `from_dict`."""

    run_id: str
    created: str
    """ISO 8601, UTC."""
    champion: str
    candidate: str
    reference_kind: str
    grade_kind: str
    alpha: float
    """One-sided level of the intervals' ends (they are two-sided at 1 - 2 alpha)."""
    n: int
    heldout_uses: int
    """Decisions that this held-out slice has served, this one included."""
    overall: Comparison
    clusters: tuple[Comparison, ...]
    champion_auroc: float | None
    """How well each verifier tells right cheap answers from wrong ones; None when all are alike."""
    candidate_auroc: float | None
    run_cost_usd: float | None = None
    """What making the candidate cost: answers, names, judges and training; None when unknown."""
    payback_queries: int | None = None
    """Queries until the saving has paid `run_cost_usd`; None when unknown or never."""
    payback_why: str = ""
    """What the number rests on, or why there is none."""
    notes: tuple[str, ...] = ()
    solved_clusters: tuple[Comparison, ...] = ()
    """Clusters that earlier runs solved, on the held-out rows that belong to them."""
    audit: AuditSlice | None = None
    """The verifier in service, as the audit slice of the run's traces shows it; None when it was not looked at."""
    judged: JudgedDifference | None = None
    """Pairwise judge's preferences between the served answers; None without a judge."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> EvaluationReport:
        """Inverse of `to_dict`; InputError names the first field that is missing or wrong."""
        try:
            return TypeAdapter(cls).validate_python(dict(row))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(
                f"not an evaluation report: {where}: {first['msg']}; make it again with the evaluate stage"
            ) from error


def build_report(
    rows: Sequence[PairedRow] | PairedTable,
    *,
    run_id: str,
    champion: str,
    candidate: str,
    reference_kind: str,
    grade_kind: str,
    config: MetricsConfig | None = None,
    cluster_names: Mapping[int, str] | None = None,
    heldout_uses: int = 1,
    run_cost_usd: float | None = None,
    notes: Sequence[str] = (),
    created: datetime | None = None,
    solved: Sequence[SolvedCluster] = (),
    audit: AuditSlice | None = None,
    judged: JudgedDifference | None = None,
) -> EvaluationReport:
    """Compare both sides over `rows`, overall, per cluster and per solved cluster. InputError without rows.

    A table (of a simulation) has neither scores nor query ids: its verifiers' AUROC is None, and `solved` must be
    empty.
    """
    config, table = config or MetricsConfig(), table_of(rows)
    scored = () if isinstance(rows, PairedTable) else rows
    overall = compare(table, config)
    saved = overall.paired.saved_per_1000_usd
    paid = payback(run_cost_usd, None if saved is None else saved.value / 1000)
    return EvaluationReport(
        run_id=run_id,
        created=(created or datetime.now(UTC)).isoformat(timespec="seconds"),
        champion=champion,
        candidate=candidate,
        reference_kind=reference_kind,
        grade_kind=grade_kind,
        alpha=config.alpha,
        n=table.n,
        heldout_uses=heldout_uses,
        overall=overall,
        clusters=compare_clusters(table, config, cluster_names),
        champion_auroc=verifier_auroc([r.champion for r in scored]),
        candidate_auroc=verifier_auroc([r.candidate for r in scored]),
        run_cost_usd=run_cost_usd,
        payback_queries=paid.queries,
        payback_why=paid.why,
        notes=tuple(notes),
        solved_clusters=_solved(scored, solved, config),
        audit=audit,
        judged=judged,
    )


def _solved(
    rows: Sequence[PairedRow], solved: Sequence[SolvedCluster], config: MetricsConfig
) -> tuple[Comparison, ...]:
    """One comparison per solved cluster that occurs among the held-out rows."""
    found = []
    for cluster in solved:
        ids = set(cluster.query_ids)
        members = [row for row in rows if row.query_id in ids]
        if members:
            found.append(compare(members, config, cluster.name))
    return tuple(found)


def report_markdown(report: EvaluationReport) -> str:
    """The report as a Markdown page: both sides, their difference, the clusters, what is unknown."""
    paired = report.overall.paired
    lines = [
        f"# {report.candidate} against {report.champion}",
        "",
        f"Run {report.run_id}, {report.created}. {report.n:,} held-out queries, answered by both sides and "
        f"the flagship; right means equal to the {_right(report)} ({report.grade_kind}). "
        f"Brackets are {100 - 200 * report.alpha:g} % intervals: "
        f"each end is a one-sided bound at {100 * report.alpha:g} %.",
        "",
        f"| | champion {report.champion} | candidate {report.candidate} |",
        "|---|---|---|",
        *_side_lines(report),
        "",
        "| candidate against champion | difference |",
        "|---|---|",
        f"| served quality | {_points(paired.quality_difference)} |",
        f"| served better / worse | {paired.n_better} / {paired.n_worse} of {paired.n} |",
        f"| cost saving | {_percent(paired.cost_saving)} |",
        f"| saved per 1,000 queries | {_usd(paired.saved_per_1000_usd)} |",
        f"| escalations cut by | {_percent(paired.escalation_cut)} |",
        f"| queries until the run has paid for itself | {_payback_text(report)} |",
        *_judged_lines(report),
        "",
        *_cluster_lines(report.clusters, "cluster"),
        *_cluster_lines(report.solved_clusters, "solved cluster"),
        *_note_lines(report),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _side_lines(report: EvaluationReport) -> list[str]:
    both = report.overall.champion, report.overall.candidate

    def line(label: str, show: Any, pick: Any) -> str:
        return f"| {label} | {show(pick(both[0]))} | {show(pick(both[1]))} |"

    def errors(side: SideMetrics) -> str:
        found = side.accepted_error
        return "none accepted" if found is None else f"{_percent(found)}, {side.n_accepted_wrong} of {found.n}"

    return [
        line("escalation rate", _percent, lambda s: s.escalation_rate),
        line("served quality", _percent, lambda s: s.quality),
        line("cheap answers right", _percent, lambda s: s.cheap_quality),
        line("wrong among accepted", errors, lambda s: s),
        line("cost per 1,000 queries", _usd, lambda s: s.cost_per_1000_usd),
        line("cost / always flagship", _percent, lambda s: s.ratio_to_flagship),
        line("verifier, per 1,000 queries", _plain_usd, lambda s: s.verifier_usd_per_1000),
        *([line("routed past the cheap tier", str, lambda s: s.n_routed)] if any(s.n_routed for s in both) else []),
        f"| verifier AUROC | {_number(report.champion_auroc)} | {_number(report.candidate_auroc)} |",
    ]


def _plain_usd(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f} USD"


def _judged_lines(report: EvaluationReport) -> list[str]:
    judged = report.judged
    if judged is None:
        return []
    return [
        f"| judge {judged.judge} prefers candidate / champion | {judged.n_better} / {judged.n_worse} of {judged.n} "
        f"({judged.n_same} the same, {judged.n_missing} missing) |",
        f"| judge's preference | {_points(judged.difference)} |",
    ]


def _cluster_lines(clusters: Sequence[Comparison], kind: str) -> list[str]:
    if not clusters:
        return []
    lines = [
        f"| {kind} | n | escalation | quality | quality difference | cost saving |",
        "|---|---|---|---|---|---|",
    ]
    for c in clusters:
        lines.append(
            f"| {c.name.replace('|', '/')} | {c.paired.n} "
            f"| {c.champion.escalation_rate.value:.0%} -> {c.candidate.escalation_rate.value:.0%} "
            f"| {c.champion.quality.value:.1%} -> {c.candidate.quality.value:.1%} "
            f"| {_points(c.paired.quality_difference)} | {_percent(c.paired.cost_saving)} |"
        )
    return [*lines, ""]


def _note_lines(report: EvaluationReport) -> list[str]:
    notes = list(report.notes)
    if unknown := report.overall.paired.n_cost_unknown:
        notes.append(f"{unknown} of {report.n} rows have an unknown cost and are left out of every cost figure.")
    if report.audit is not None:
        notes.append(_audit_note(report.audit))
    if report.heldout_uses > 1:
        notes.append(f"This held-out slice has now served {report.heldout_uses} decisions.")
    return [f"- {note}" for note in notes]


def _audit_note(audit: AuditSlice) -> str:
    if audit.false_accept is None:
        return f"None of the {audit.n_accepted} answers that {audit.version} accepted in service was audited."
    unseen = f"; {audit.n_never} more could not have been audited" if audit.n_never else ""
    return (
        f"Audit slice: {audit.n_wrong} of {audit.n} audited answers of {audit.version} were wrong, "
        f"{_percent(audit.false_accept)} of the {audit.n_accepted} that it accepted in service{unseen}."
    )


def _right(report: EvaluationReport) -> str:
    return "flagship's answer" if report.reference_kind == "flagship" else "reference answer"


def _payback_text(report: EvaluationReport) -> str:
    if report.payback_queries is not None:
        return f"{report.payback_queries:,} ({report.payback_why})"
    return report.payback_why


def _percent(interval: Interval | None) -> str:
    return "unknown" if interval is None else f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def _points(interval: Interval) -> str:
    value, low, high = (100 * x + 0.0 for x in (interval.value, interval.low, interval.high))
    return f"{value:+.1f} points [{low:+.1f}, {high:+.1f}]"


def _usd(interval: Interval | None) -> str:
    if interval is None:
        return "unknown"
    return f"${interval.value:,.3f} [{interval.low:,.3f}, {interval.high:,.3f}]"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
