"""All that an evaluation report rests on besides its rows: enough to make the report again, number by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cascade.errors import InputError
from evaluation.audit import AuditSlice
from evaluation.judge import JudgedDifference
from evaluation.metrics import MetricsConfig
from evaluation.replay import PairedRow
from evaluation.report import EvaluationReport, SolvedCluster, build_report


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """Arguments of `build_report`, as stored beside the report."""

    run_id: str
    champion: str
    candidate: str
    reference_kind: str
    grade_kind: str
    created: str
    """ISO 8601, UTC."""
    config: MetricsConfig
    cluster_names: dict[int, str]
    heldout_uses: int
    run_cost_usd: float | None
    solved: tuple[SolvedCluster, ...] = ()
    audit: AuditSlice | None = None
    judged: JudgedDifference | None = None

    def build(self, rows: Sequence[PairedRow]) -> EvaluationReport:
        """The report of these rows. InputError without rows."""
        return build_report(
            rows,
            run_id=self.run_id,
            champion=self.champion,
            candidate=self.candidate,
            reference_kind=self.reference_kind,
            grade_kind=self.grade_kind,
            created=datetime.fromisoformat(self.created),
            config=self.config,
            cluster_names=self.cluster_names,
            heldout_uses=self.heldout_uses,
            run_cost_usd=self.run_cost_usd,
            solved=self.solved,
            audit=self.audit,
            judged=self.judged,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        solved = [{**asdict(c), "query_ids": sorted(c.query_ids)} for c in self.solved]
        return {**asdict(self), "config": self.config.model_dump(), "solved": solved}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> ReportInputs:
        """Inverse of `to_dict`; InputError when it is not one."""
        try:
            return TypeAdapter(cls).validate_python(dict(row))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"not a report's inputs: {where}: {first['msg']}; run the evaluate stage again") from error
