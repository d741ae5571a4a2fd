"""What a promotion must prove, as a file of values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cascade.errors import ConfigError


class GatePolicy(BaseModel):
    """What a promotion must prove. Rates and margins are 0..1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    quality_margin: float = Field(default=0.02, gt=0, lt=1)
    """Served quality may be lower by less than this (non-inferiority)."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """One-sided level: the chance of a false promotion over all decisions that one held-out slice serves."""
    min_pairs: int = Field(default=300, ge=1)
    """No promotion on fewer held-out rows."""
    min_cost_saving: float = Field(default=0.0, ge=0, lt=1)
    """The lower bound of the relative cost saving must be above this."""
    beat_flagship: bool = True
    """The candidate's cascade must be shown cheaper than sending everything to the flagship."""
    max_payback_queries: int | None = Field(default=None, ge=1)
    """The saving must have paid for the run within so many queries. None: not checked."""
    cluster_margin: float = Field(default=0.05, gt=0, lt=1)
    """No cluster may be shown to lose more served quality than this."""
    solved_margin: float = Field(default=0.10, gt=0, lt=1)
    """In a cluster that an earlier run solved, the escalation rate may not be shown to rise by more than this."""
    min_cluster_pairs: int = Field(default=10, ge=1)
    """Smaller clusters are not tested on their own: they could not show a loss that is there."""
    max_false_accept: float | None = Field(default=0.10, gt=0, le=1)
    """Upper bound of the share of wrong answers among those that the candidate's verifier accepts. Twice
    the usual calibration target of 5 %, because a bound on a few hundred accepted answers lies well above
    their rate. None: not checked."""
    max_audit_false_accept: float | None = Field(default=None, gt=0, le=1)
    """Upper bound of the share of wrong answers among those accepted in service, estimated from the audit slice.
    It judges the verifier that served, not the candidate's: set it where nothing may be promoted while the
    cascade's own calibration does not hold. None: shown, not checked."""
    judge_margin: float = Field(default=0.05, gt=0, lt=1)
    """Where a judge compared served answers: losses may exceed wins by less than this share of all rows."""
    max_judge_missing: float = Field(default=0.05, ge=0, le=1)
    """Share of the judge's comparisons that may lack a readable verdict."""
    max_cost_unknown: float = Field(default=0.02, ge=0, le=1)
    """Share of rows that may lack a cost before a saving counts as unproven."""
    heldout_decisions: int | None = Field(default=1, ge=1)
    """Decisions that one held-out slice may serve, declared beforehand; None: as many as come. Alpha is spent
    on them in shares that fall as 1 / k^2."""
    approval: Literal["none", "required"] = "none"
    """Required: a candidate that passed every check waits for a person's word before it serves."""

    def alpha_at(self, use: int) -> float:
        """Level of the `use`-th decision (from 1) on one held-out slice.

        alpha_k = alpha x k^-2 / sum of j^-2 over the declared decisions (all of them sum to pi^2 / 6), so that
        the levels of all decisions add up to alpha, and by the union bound no more than alpha of all slices
        ever lead to a false promotion (alpha spending; the series is the one of Foster and Stine 2008, JRSS B
        70:429). One declared decision spends all of alpha.
        """
        last = self.heldout_decisions
        k = max(1, use if last is None else min(use, last))
        total = math.pi**2 / 6 if last is None else sum(j**-2 for j in range(1, last + 1))
        return self.alpha * k**-2 / total

    @classmethod
    def from_yaml(cls, path: Path) -> GatePolicy:
        """Read a policy; ConfigError when the file is missing, is not YAML or has an unknown key."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read gate policy {path}: {str(error).splitlines()[0]}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "top level"
            raise ConfigError(f"gate policy {path}: {where}: {first['msg']}") from error
