"""One run's configuration: each package's own config class, composed, read from YAML with strict keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cascade.calibration import CalibrationConfig
from cascade.errors import ConfigError
from cascade.local import LocalTierConfig
from cascade.request import OpenAITierConfig
from cascade.router import RouterConfig
from cascade.verifiers import RulesConfig
from cascade.verifiers.config import VerifierConfig
from clustering.causes import CausesConfig
from clustering.cluster import ClusterConfig
from clustering.embed import EmbedConfig
from clustering.lineage import LineageConfig
from clustering.target import TargetConfig
from finetune.spec import TrainConfig
from finetune.training_set import TrainingSetConfig
from monitoring.policy import MonitorPolicy
from promotion.gate import GatePolicy
from promotion.rollout import RolloutConfig

HELD_QUALITY = 0.97
"""Share of the flagship's quality at which arms are compared unless the configuration says otherwise."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServeConfig(_Strict):
    """How `replay` serves traffic."""

    audit_rate: float = Field(0.02, ge=0, le=1)
    """Share of accepted answers that is also sent to the flagship."""
    cold_start_queries: int = Field(600, ge=1)
    """A cascade without a champion sends its first queries to both tiers, to calibrate its verifier."""
    chunk: int = Field(256, ge=1)
    """Queries answered, judged and stored together."""


class RunnerConfig(_Strict):
    """Where a run's sharded work is done: embedding very many texts, and the student's answers."""

    kind: Literal["threads", "ray"] = "threads"
    """threads: this process. ray: a Ray cluster, through Prefect's RayTaskRunner (the extra `ray`)."""
    address: str | None = None
    """Of a Ray cluster, as ray://head:10001; its machines share `runs` and `state`. None: one of this machine."""
    workers: int = Field(2, ge=1)
    """CPUs of a Ray cluster of this machine; an address brings its own."""
    shard_texts: int = Field(50_000, ge=1)
    """Texts embedded as one shard."""
    shard_queries: int = Field(5_000, ge=1)
    """Queries answered as one shard."""


class WindowConfig(_Strict):
    """Which traces a run works on, and how they are split: in time order, shares of the window."""

    days: float | None = Field(None, gt=0)
    """Length of the window that ends at the newest trace; None takes every trace."""
    pool: float = Field(0.55, gt=0, lt=1)
    """Oldest part: escalations are collected and training answers bought here."""
    calibration: float = Field(0.18, gt=0, lt=1)
    """Then the part on which verifiers are calibrated."""
    max_labelled: int | None = Field(None, ge=100)
    """Most traces of the calibration part, and most of the held-out part; of more a random sample is taken, so that
    what is paid for their flagship answers does not grow with the traffic. None takes all."""

    @property
    def heldout(self) -> float:
        """The newest part, on which champion and candidate are compared."""
        return 1 - self.pool - self.calibration

    @model_validator(mode="after")
    def _leaves_a_heldout_part(self) -> WindowConfig:
        if self.heldout < 0.05:
            raise ValueError(
                f"window.pool + window.calibration is {self.pool + self.calibration:.2f}: leave at least 0.05"
                " of the window for the held-out slice"
            )
        return self


class RunConfig(_Strict):
    """Everything that `replay`, `run` and `compare` need."""

    name: str
    seed: int = 0
    state: Path = Path("state")
    """Folder of what lives across runs: traces, bought answers, registry."""
    traces: str | None = None
    """Where traces are kept: a file, postgresql://..., lake:folder or s3://...; None: traces.db in `state`."""
    registry: str | None = None
    """Database URL of the registry's versions and history (adapters stay in `state`); None: registry.db in `state`."""
    runs: Path = Path("runs")
    """Folder in which each run has its own."""
    traffic: Path | None = None
    """Traffic file that `replay` reads when it is given none."""
    prices: Path = Path("configs/prices.yaml")
    budget_usd: float = Field(gt=0)
    """Hard limit on what one run may pay: the flagship, and the judges that are configured."""
    grade: Literal["exact", "json_exact", "json_f1"] = "json_exact"
    reference: Literal["flagship", "reference"] = "flagship"
    """What counts as right: the flagship's answer, or the reference that the traffic carries."""
    student: LocalTierConfig
    cheap: OpenAITierConfig | None = None
    """Where the cheap tier is served (vLLM); None serves the student in this process."""
    flagship: OpenAITierConfig
    serve: ServeConfig = ServeConfig()
    rules: RulesConfig = RulesConfig()
    verifier: VerifierConfig = VerifierConfig()
    router: RouterConfig | None = None
    """Sends queries that the cheap tier would surely fail straight to the flagship; None: every query is tried."""
    calibration: CalibrationConfig = CalibrationConfig()
    window: WindowConfig = WindowConfig()
    embed: EmbedConfig
    cluster: ClusterConfig = ClusterConfig()
    causes: CausesConfig = CausesConfig()
    lineage: LineageConfig = LineageConfig()
    name_clusters: bool = False
    """Let the flagship name each cluster from its exemplars: one small request per cluster, within the budget."""
    target: TargetConfig
    training_set: TrainingSetConfig
    train: TrainConfig = TrainConfig()
    gate: GatePolicy = GatePolicy()
    compare_at_quality: float = Field(HELD_QUALITY, gt=0, le=1)
    """Share of the flagship's quality at which `compare` sets the arms side by side, besides the champion's own."""
    runner: RunnerConfig = RunnerConfig()
    monitor: MonitorPolicy = MonitorPolicy()
    approval_timeout_s: float = Field(7 * 86400.0, gt=0)
    """How long a flow under a Prefect server pauses for a person's word; `approve` and `reject` work after it too."""
    preference_judge: OpenAITierConfig | None = None
    """A model that compares what champion and candidate served, asked both ways round; None: graded alone."""
    rollout: RolloutConfig | None = None
    """Fleet of servers that a promoted adapter is brought to; None: only the registry's alias moves."""

    @model_validator(mode="after")
    def _a_fleet_is_asked_somehow(self) -> RunConfig:
        if self.rollout is not None and self.cheap is None:
            raise ValueError("rollout names a fleet, and cheap does not say how it is asked: set cheap too")
        return self

    @field_validator("traces", "registry")
    @classmethod
    def _holds_no_password(cls, url: str | None) -> str | None:
        if url is not None and "://" in url and urlsplit(url).password:
            # The settings are saved with every run.
            raise ValueError("the URL holds a password: leave it out and set PGPASSWORD, or use ~/.pgpass")
        return url

    def dump(self) -> dict[str, Any]:
        """JSON-ready values, as saved with the run."""
        return self.model_dump(mode="json")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's top-level mapping. Raises ConfigError."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"configuration file {path} does not exist: name one with --config") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}, not a mapping of settings")
    return values


def build_config(values: dict[str, Any], source: str) -> RunConfig:
    """Validate settings. Raises ConfigError that names the first wrong key and its value."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        # A URL that is refused for its password is not shown either.
        hidden = first["type"] == "missing" or "password" in first["msg"]
        seen = "" if hidden else f" (value seen: {first['input']!r})"
        raise ConfigError(f"{source}: {where}: {first['msg']}{seen}") from None


def merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """`base` with `update` laid over it, mapping by mapping."""
    merged = dict(base)
    for key, value in update.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
