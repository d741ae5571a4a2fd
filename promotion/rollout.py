"""Bringing a fleet of vLLM servers to a new version, so that no request fails and no server answers as another model.

    publish   the adapter under a name that no other version will ever have (name-v7-<sha>)
    load      on every server; a name that is listed already is loaded afresh
    check     every server lists it
    canary    every server's log-probabilities of a few known answers are those of the trained adapter, computed
              here, and not those of the base model
    switch    the registry's alias, in one transaction
    tidy      the version before stays loaded for the way back; older ones are unloaded

Immutable names matter: vLLM keys its prefix cache by the adapter's name, and an adapter reloaded under its old name can
be answered from blocks of the old weights (vllm-project/vllm issue 42125). The canary matters: an adapter whose module
names do not match is accepted, listed, and answers as the base model (issue 34186). Whatever fails before the
switch, the old champion serves on, and what was loaded is unloaded again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cascade.errors import RolloutError, TierError
from cascade.fleet import Replica
from promotion.files import copy_whole

NOT_FOUND = 404


class RolloutConfig(BaseModel):
    """The fleet, and how it gets its adapters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    replicas: tuple[str, ...] = Field(min_length=1)
    """URL of each server, up to and including /v1."""
    via: Literal["endpoint", "resolver"] = "endpoint"
    """Endpoint: POST /v1/load_lora_adapter. Resolver: a folder that vLLM's filesystem resolver looks into
    (VLLM_LORA_RESOLVER_CACHE_DIR) when a request names an adapter that it has not loaded."""
    folder: Path | None = None
    """Where adapters are published, as this machine sees it; the resolver's folder. None: the registry's own."""
    served_folder: str | None = None
    """The same folder as the servers see it (a mount in a container); None: the same path."""
    served_base: str | None = None
    """The base model's name as the servers know it; None: the one that they list first."""
    tolerance: float = Field(default=0.1, gt=0)
    """Mean absolute difference (nats per token) up to which served and trained log-probabilities are the same. Half
    precision, other kernels and batching move them by hundredths."""
    probes: int = Field(default=4, ge=1)
    """Known answers that the canary asks each server about."""
    api_key_env: str | None = None
    """Environment variable that holds the servers' key (vLLM's --api-key); None for servers without."""
    timeout_s: float = Field(default=120.0, gt=0)


@dataclass(frozen=True, slots=True)
class Probe:
    """A known answer to a known question, with what each model says of it."""

    ids: tuple[int, ...]
    """Prompt and answer as token ids."""
    n_prompt: int
    trained: tuple[float, ...]
    """Log-probability of each answer token under the trained adapter, computed in this process."""
    base: tuple[float, ...]
    """The same under the base model."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done to one server, or to all."""

    what: str
    where: str
    found: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """A fleet that serves the new version."""

    name: str
    steps: tuple[Step, ...]
    warnings: tuple[str, ...]
    """Older versions that could not be unloaded: they take memory, and harm nobody."""


def roll_out(
    name: str,
    adapter: Path,
    config: RolloutConfig,
    probes: Sequence[Probe],
    *,
    switch: Callable[[], object],
    serving: str | None,
    keep: Sequence[str] = (),
    ours: str,
) -> Rollout:
    """Bring every server to `name`, then call `switch`; afterwards unload every other version of `ours` (the student's
    name) but `serving` (the champion until now) and those in `keep`.

    Raises RolloutError, with the champion serving as before, when a server is down, refuses, does not list the adapter
    or answers as another model, and lets the error of `switch` through after unloading what was loaded. A second
    call after a failure or a kill starts over.
    """
    _check_probes(probes, config)
    if name == serving:
        raise RolloutError(f"{name} serves already: nothing to roll out")
    key = os.environ.get(config.api_key_env) if config.api_key_env else None
    fleet = [Replica(url, key=key, timeout_s=config.timeout_s) for url in config.replicas]
    steps: list[Step] = []
    touched: list[Replica] = []
    try:
        path = publish(adapter, name, config)
        try:
            for replica in fleet:
                touched.append(replica)
                steps += _bring(replica, name, path, config, probes)
            for replica in fleet:  # once more, together: a server may have gone down or lost it meanwhile
                _must_list(replica, name)
            switch()
        except Exception as error:  # whatever it is, what was loaded must go
            undone = _undo(touched, name, config)
            if not isinstance(error, TierError | RolloutError):
                raise
            raise RolloutError(
                f"{name} was not rolled out, {serving or 'the base model'} serves on: {error}{undone}"
            ) from error
        kept = {name, *keep, *([serving] if serving else [])}
        warnings = _tidy(fleet, ours, kept, config)
        return Rollout(name, tuple(steps), tuple(warnings))
    finally:
        for replica in fleet:
            replica.close()


def publish(adapter: Path, name: str, config: RolloutConfig) -> str:
    """Copy the adapter to the folder that the servers read, whole or not at all; the path as they see it."""
    if config.folder is None:
        if config.via == "resolver":
            raise RolloutError("rollout.via is resolver, and rollout.folder is not set: name the resolver's folder")
        return str(adapter.resolve())
    target = config.folder / name
    copy_whole(adapter, target)
    if config.via == "resolver":
        _check_resolvable(target, config)
    return f"{config.served_folder.rstrip('/')}/{name}" if config.served_folder else str(target.resolve())


def _check_resolvable(folder: Path, config: RolloutConfig) -> None:
    """vLLM's filesystem resolver takes an adapter only if its base_model_name_or_path is the served base model's name
    (https://docs.vllm.ai/en/stable/api/vllm/plugins/lora_resolvers/filesystem_resolver/): ours is set to it."""
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    if config.served_base and settings.get("base_model_name_or_path") != config.served_base:
        settings["base_model_name_or_path"] = config.served_base
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        temporary.replace(path)


def _bring(replica: Replica, name: str, path: str, config: RolloutConfig, probes: Sequence[Probe]) -> list[Step]:
    """Make one server answer as the trained adapter under `name`, or raise."""
    if name in {served.name for served in replica.models()}:
        found = _canary(replica, name, config, probes)
        if found.right:  # the way back, or a rollout that was killed after this server: no load is needed
            return [Step("loaded before", replica.url, found.sentence)]
        replica.unload(name)
    if config.via == "endpoint":
        replica.load(name, path)
    found = _canary(replica, name, config, probes)
    _must_list(replica, name)
    if not found.right:
        raise RolloutError(f"{replica.url} serves {name} wrongly: {found.sentence}")
    return [Step("load", replica.url, path), Step("canary", replica.url, found.sentence)]


@dataclass(frozen=True, slots=True)
class _Canary:
    right: bool
    sentence: str


def _canary(replica: Replica, name: str, config: RolloutConfig, probes: Sequence[Probe]) -> _Canary:
    distance, to_base = _distances(replica, name, probes)
    sentence = (
        f"{distance:.4f} nats per token from the trained adapter (at most {config.tolerance:g}), "
        f"{to_base:.4f} from the base model"
    )
    if distance <= config.tolerance:
        return _Canary(True, sentence)
    like = "it answers as the base model" if to_base <= config.tolerance else "it answers as another model"
    return _Canary(False, f"{sentence}: {like}")


def _distances(replica: Replica, name: str, probes: Sequence[Probe]) -> tuple[float, float]:
    """Mean absolute difference of served log-probabilities to trained and to base ones, over all answer tokens."""
    to_trained: list[float] = []
    to_base: list[float] = []
    for probe in probes:
        served = replica.logprobs(name, probe.ids)[probe.n_prompt - 1 :]
        if len(served) != len(probe.trained):
            raise RolloutError(f"{replica.url} gave {len(served)} log-probabilities for {len(probe.trained)} tokens")
        to_trained += [abs(a - b) for a, b in zip(served, probe.trained, strict=True)]
        to_base += [abs(a - b) for a, b in zip(served, probe.base, strict=True)]
    return sum(to_trained) / len(to_trained), sum(to_base) / len(to_base)


def _check_probes(probes: Sequence[Probe], config: RolloutConfig) -> None:
    apart = [abs(a - b) for probe in probes for a, b in zip(probe.trained, probe.base, strict=True)]
    if not apart or sum(apart) / len(apart) <= 3 * config.tolerance:
        found = f"{sum(apart) / len(apart):.3f} nats per token" if apart else "no probe"
        raise RolloutError(
            f"the canary cannot tell the adapter from the base model ({found}, at least {3 * config.tolerance:g} "
            "asked): take probes that the adapter answers differently, or a smaller rollout.tolerance"
        )


def _must_list(replica: Replica, name: str) -> None:
    if name not in {served.name for served in replica.models()}:
        raise RolloutError(f"{replica.url} does not list {name} under /v1/models")


def _undo(touched: Sequence[Replica], name: str, config: RolloutConfig) -> str:
    """Take the new name away from every server that may have it; what could not be done, as words."""
    if config.folder is not None:  # first: a resolver would load it again at the next request
        shutil.rmtree(config.folder / name, ignore_errors=True)
    stuck = []
    for replica in touched:
        try:
            replica.unload(name)
        except TierError as error:
            # A server that says that it has no such adapter is as it should be.
            if f"status {NOT_FOUND}" not in str(error):
                stuck.append(replica.url)
    return f" (could not be unloaded from {', '.join(stuck)})" if stuck else ""


def _tidy(fleet: Sequence[Replica], ours: str, kept: set[str], config: RolloutConfig) -> list[str]:
    # Exactly the names that the registry gives: a folder or an adapter of somebody else's may begin alike.
    version = re.compile(rf"{re.escape(ours)}-v\d+-[0-9a-f]{{8}}")
    warnings = []
    if config.folder is not None:
        for folder in config.folder.iterdir():
            if version.fullmatch(folder.name) and folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
    for replica in fleet:
        try:
            for name in [s.name for s in replica.models() if s.parent]:
                if version.fullmatch(name) and name not in kept:
                    replica.unload(name)
        except TierError as error:
            warnings.append(str(error))
    return warnings
