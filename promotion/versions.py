"""What the registry hands out: versions, their lineage, and lines of its history."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Alias = Literal["champion", "previous", "candidate"]


@dataclass(frozen=True, slots=True)
class Version:
    """What serves: a base model, perhaps an adapter, and the verifier fitted to both."""

    id: str
    """"v1", "v2", ... in the order of registration."""
    name: str
    base_model: str
    adapter: Path | None
    """Folder inside the registry; None: the base model alone."""
    adapter_digest: str | None
    verifier: dict[str, Any] | None
    """`Verifier.to_dict()`; None: not calibrated yet, everything escalates."""
    report: str | None
    run_id: str | None
    created: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def serving_name(self) -> str:
        """A name that no other version will ever have, for traces and for a server's list of models."""
        return f"{self.name}-{self.id}" + (f"-{self.adapter_digest[:8]}" if self.adapter_digest else "")


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change: "register", "promote", "rollback" or "reject"."""

    id: int
    time: str
    action: str
    version: str
    replaced: str | None
    """Champion before, for a promotion or a rollback."""
    who: str
    why: str
    run_id: str | None


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a version was made of, by digest; None where it is not known."""

    data_digest: str | None = None
    """Of the training set's files."""
    code_commit: str | None = None
    base_revision: str | None = None
    config_digest: str | None = None
    """Of the run's resolved configuration."""
    report_digest: str | None = None
    """Of the evaluation report's file."""


def version_to_dict(version: Version) -> dict[str, Any]:
    """JSON-ready form, for manifests and the command line."""
    return {**asdict(version), "adapter": None if version.adapter is None else str(version.adapter)}
