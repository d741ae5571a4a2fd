"""What a promotion must prove, as a file of values."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cascade.errors import ConfigError


class GatePolicy(BaseModel):
    """What a promotion must prove. Rates and margins are 0..1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    quality_margin: float = Field(default=0.02, gt=0, lt=1)
    """Served quality may be lower by less than this (non-inferiority)."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """One-sided level of each test."""
    min_pairs: int = Field(default=300, ge=1)
    """No promotion on fewer held-out rows."""
    min_cost_saving: float = Field(default=0.0, ge=0, lt=1)
    """The lower bound of the relative cost saving must be above this."""
    cluster_margin: float = Field(default=0.05, gt=0, lt=1)
    """No cluster may be shown to lose more served quality than this."""
    min_cluster_pairs: int = Field(default=30, ge=1)
    """Smaller clusters are not tested on their own."""
    max_false_accept: float | None = Field(default=0.10, gt=0, le=1)
    """Upper bound of the share of wrong answers among those that the candidate's verifier accepts. Twice
    the usual calibration target of 5 %, because a bound on a few hundred accepted answers lies well above
    their rate. None: not checked."""
    max_cost_unknown: float = Field(default=0.02, ge=0, le=1)
    """Share of rows that may lack a cost before a saving counts as unproven."""
    heldout_decisions: int = Field(default=1, ge=1)
    """Decisions that one held-out slice may serve, declared beforehand; alpha is shared out among them."""

    @property
    def spent_alpha(self) -> float:
        """Level of this one decision (Bonferroni over the declared uses of the held-out slice)."""
        return self.alpha / self.heldout_decisions

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
