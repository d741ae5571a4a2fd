"""The model card: what a version is, what it was made of, how it did, and what it is not for. One Markdown page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evaluation.intervals import Interval
from evaluation.report import EvaluationReport
from promotion.decision import Decision
from promotion.versions import Lineage, Version

UNKNOWN = "not recorded"


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card says beyond the version itself."""

    lineage: Lineage
    report: EvaluationReport | None = None
    decision: Decision | None = None
    data: Mapping[str, object] = field(default_factory=dict)
    """Counts of the training set, by what they count."""
    teacher: str | None = None
    """Model whose answers were trained on."""
    teacher_permission: str | None = None
    """On what ground its answers may be trained on; None: not recorded."""
    base_licence: str | None = None


def model_card(version: Version, facts: CardFacts) -> str:
    """The card of a version, in Markdown."""
    lines = [
        f"# {version.serving_name}",
        "",
        f"A LoRA adapter on `{version.base_model}`." if version.adapter_digest else f"`{version.base_model}` as it is.",
        "",
        "## Made of",
        "",
        "| what | which |",
        "|---|---|",
        *(f"| {name} | {value or UNKNOWN} |" for name, value in _made_of(version, facts).items()),
        "",
        "## Data",
        "",
        f"Answers of {facts.teacher or UNKNOWN}; permission to train on them: {facts.teacher_permission or UNKNOWN}. "
        f"Licence of the base model: {facts.base_licence or UNKNOWN}.",
        "",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.data.items()),
        *([""] if facts.data else []),
        "## Measured",
        "",
        *_measured(facts.report),
        "",
        "## Decision",
        "",
        *_decided(facts.decision),
        "",
        "## Limits",
        "",
        *_limits(facts),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _made_of(version: Version, facts: CardFacts) -> dict[str, str | None]:
    lineage = facts.lineage
    return {
        "base revision": lineage.base_revision,
        "adapter (SHA-256)": version.adapter_digest,
        "training set (SHA-256)": lineage.data_digest,
        "configuration (SHA-256)": lineage.config_digest,
        "code (commit)": lineage.code_commit,
        "evaluation report (SHA-256)": lineage.report_digest,
        "run": version.run_id,
        "registered": version.created,
    }


def _measured(report: EvaluationReport | None) -> list[str]:
    if report is None:
        return ["Not evaluated."]
    before, after, paired = report.overall.champion, report.overall.candidate, report.overall.paired
    return [
        f"On {report.n} held-out queries, paired with {report.champion}; {100 - 200 * report.alpha:.3g} % intervals.",
        "",
        "| | before | with this version |",
        "|---|---|---|",
        f"| escalation rate | {_percent(before.escalation_rate)} | {_percent(after.escalation_rate)} |",
        f"| served quality | {_percent(before.quality)} | {_percent(after.quality)} |",
        f"| wrong among accepted | {_percent(before.accepted_error)} | {_percent(after.accepted_error)} |",
        f"| cost / always flagship | {_percent(before.ratio_to_flagship)} | {_percent(after.ratio_to_flagship)} |",
        "",
        f"Cost saving {_percent(paired.cost_saving)}; quality difference {_percent(paired.quality_difference)}; "
        f"{len(report.clusters)} clusters compared.",
    ]


def _decided(decision: Decision | None) -> list[str]:
    if decision is None:
        return ["No gate has judged it."]
    checks = [f"- {check.status}: {check.name}: {check.sentence}" for check in decision.checks]
    return [f"The gate said {decision.outcome.upper()}.", "", *checks]


def _limits(facts: CardFacts) -> list[str]:
    report = facts.report
    lines = [
        "- Serves only together with the verifier that was fitted to it: alone, its confidence says nothing.",
        "- Measured on this cascade's own traffic; on other traffic it must be measured again.",
    ]
    if report is not None:
        right = "the flagship's answers" if report.reference_kind == "flagship" else "the traffic's references"
        lines.append(f"- Quality is agreement with {right} ({report.grade_kind}), and no better than these are.")
        lines += [f"- {note}" for note in report.notes]
    return lines


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return "unknown"
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}], n = {interval.n:,}"
