"""What a stage works with: the run's configuration and folder, and the stores that live across runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from cascade.client import OpenAITier
from cascade.cost import PriceTable
from cascade.errors import InputError, StageError
from cascade.purchase import AnswerStore, Budget, Buyer
from cascade.request import OpenAITierConfig
from cascade.store import TraceStore, open_traces
from flows.arms import TARGETED, Arm
from flows.config import RunConfig, build_config, merge
from flows.rundir import RunDir, read_json, write_json
from promotion.clusters import ClusterHistory
from promotion.registry import Registry, Version


@dataclass(frozen=True)
class State:
    """The stores below the state folder: traces, bought flagship answers, registry."""

    root: Path
    traces_at: str | None = None
    """Path or URL of the traces; None: a file below `root`."""
    registry_at: str | None = None
    """Database URL of the registry; None: a file below `root`."""

    @cached_property
    def traces(self) -> TraceStore:
        return open_traces(self.traces_at or self.root / "traces.db")

    @cached_property
    def answers(self) -> AnswerStore:
        return AnswerStore(self.root / "answers.db")

    @cached_property
    def registry(self) -> Registry:
        return Registry(self._registry_url, self.root)

    @cached_property
    def clusters(self) -> ClusterHistory:
        return ClusterHistory(self._registry_url)

    @property
    def _registry_url(self) -> str:
        return self.registry_at or f"sqlite:///{self.root / 'registry.db'}"


def open_state(config: RunConfig) -> State:
    """The configuration's state folder, made when it is not there."""
    config.state.mkdir(parents=True, exist_ok=True)
    return State(config.state, config.traces, config.registry)


@dataclass(frozen=True)
class RunContext:
    """One run: configuration, folder, seed, window of traces, and the stores."""

    config: RunConfig
    run: RunDir
    since: datetime
    until: datetime
    champion_id: str
    state: State
    arm: Arm = TARGETED
    experiment: bool = False
    """A comparison of arms: every flagship answer to the pool that an arm uses, in training or in its verifier, counts
    as one of its own, and those that serving paid for are not looked at otherwise."""
    level: int = 0
    """Answers that the arms of an experiment were offered; `target.n_answers` is what the first found worth buying."""

    @property
    def seed(self) -> int:
        return self.config.seed

    @cached_property
    def prices(self) -> PriceTable:
        return PriceTable.from_yaml(self.config.prices)

    @cached_property
    def flagship(self) -> OpenAITier:
        return OpenAITier(self.config.flagship)

    @cached_property
    def budget(self) -> Budget:
        """One for all that the run buys, of whatever model; what an earlier start of the run spent counts."""
        budget = Budget(self.config.budget_usd)
        budget.restore(self.state.answers, self.run.run_id)
        return budget

    @cached_property
    def buyer(self) -> Buyer:
        """Buys flagship answers under the run's budget."""
        return self._buyer(self.flagship, "flagship")

    def judge_buyer(self) -> Buyer | None:
        """Buys the pairwise judge's verdicts from what is left of the run's budget; None without a judge."""
        judge = self.config.preference_judge
        return None if judge is None else self._buyer(OpenAITier(judge), "judge", note_about=True)

    def ask_judge(self, judge: OpenAITierConfig) -> Buyer:
        """Carries a verifier's questions to its judge, under the run's budget; an answer is paid for once."""
        return self._buyer(OpenAITier(judge), "judge of the verifier", note_about=True)

    def _buyer(self, tier: OpenAITier, purpose: str, *, note_about: bool = False) -> Buyer:
        store, run_id = self.state.answers, self.run.run_id
        return Buyer(tier, self.prices, store, self.budget, run_id, purpose, note_about=note_about)

    def champion(self) -> Version:
        """The version that the run tries to beat: the champion of its first start."""
        return self.state.registry.resolve(self.champion_id)

    def for_arm(self, arm: Arm, seed: int, n_answers: int) -> RunContext:
        """The same run as one arm of an experiment, with its seed for selection, training and resampling."""
        own = {"seed": seed, "target": {"n_answers": n_answers}}
        values = merge(merge(self.config.dump(), dict(arm.changes)), own)
        return replace(self, config=build_config(values, f"arm {arm.name}"), arm=arm)

    def arm_stage(self, stage: str) -> str:
        """Folder of a stage from the choice of answers on, relative to the run's; each arm of an experiment has its
        own."""
        if not self.experiment:
            return stage
        return f"arms/{self.arm.name}/seed-{self.seed}/answers-{self.level}/{stage}"


def start_run(config: RunConfig, run_id: str) -> RunContext:
    """Open a run, or go on with one of that id: configuration and window are those of its first start, but for the
    flagship's address, which may have moved."""
    run = RunDir(config.runs / run_id)
    if (run.root / "run.json").exists():
        _readdress(run.root, config)
        return open_run(run.root)
    state = open_state(config)
    since, until = window_of(config, state)
    champion = state.registry.resolve("champion").id
    run.root.mkdir(parents=True, exist_ok=True)
    head: dict[str, Any] = {
        "run_id": run_id,
        "config": config.dump(),
        "since": since.isoformat(),
        "until": until.isoformat(),
        "champion": champion,
        "started": datetime.now(UTC).isoformat(),
    }
    write_json(run.root / "run.json", head)
    return RunContext(config, run, since, until, champion, state)


def _readdress(root: Path, config: RunConfig) -> None:
    head = read_json(root / "run.json")
    if head["config"]["flagship"].get("base_url") != config.flagship.base_url:
        head["config"]["flagship"]["base_url"] = config.flagship.base_url
        write_json(root / "run.json", head)


def open_run(root: Path) -> RunContext:
    """The run in a folder. Raises StageError when there is none."""
    if not (root / "run.json").exists():
        raise StageError(f"{root} holds no run (run.json is missing): check the run id with `status`")
    head = read_json(root / "run.json")
    config = build_config(head["config"], str(root / "run.json"))
    return RunContext(
        config=config,
        run=RunDir(root),
        since=datetime.fromisoformat(head["since"]),
        until=datetime.fromisoformat(head["until"]),
        champion_id=head["champion"],
        state=open_state(config),
    )


def newest_run(runs: Path, stage: str) -> Path:
    """Folder of the run that finished a stage last. Raises StageError when none has."""
    found = sorted(runs.glob(f"*/{stage}/manifest.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise StageError(
            f"no run in {runs} has reached {stage}: start one with `cascade-distill run` or name a --run-id"
        )
    return found[-1].parent.parent


def window_of(config: RunConfig, state: State) -> tuple[datetime, datetime]:
    """Since and until of the traces that a run would work on now. Raises InputError when there are none."""
    span = state.traces.span()
    if span is None:
        raise InputError(
            f"no traces in {state.traces_at or state.root}: serve traffic with `cascade-distill replay` or load logs"
            " with `ingest` first"
        )
    first, last = span.first, span.last
    if config.window.days is not None:
        first = max(first, last - timedelta(days=config.window.days))
    return first, last + timedelta(microseconds=1)
