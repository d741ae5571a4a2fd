"""Checks that a run would otherwise fail on after it has begun to spend."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cascade.client import list_models, probe_logprobs
from cascade.cost import PriceTable
from cascade.errors import CascadeDistillError, ConfigError
from cascade.fleet import Replica
from cascade.local import LocalTier, accelerator_name
from cascade.trace import Query
from cascade.verifiers.pricing import require_price
from clustering.embed import embed_texts
from flows.config import RunConfig
from flows.context import open_state
from flows.rundir import RECORDED_PACKAGES


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check and what it found."""

    name: str
    ok: bool
    found: str


def check_all(config: RunConfig) -> list[CheckResult]:
    """Run every check; none stops another."""
    checks: list[tuple[str, Callable[[RunConfig], str]]] = [
        ("packages", _packages),
        ("accelerator", _accelerator),
        ("student", _student),
        ("embedder", _embedder),
        ("flagship", _flagship),
        ("prices", _prices),
        *([("confidence", _confidence)] if config.cheap is not None and config.verifier.kind == "confidence" else []),
        ("state folder", _state),
        ("champion", _champion),
        *([("fleet", _fleet)] if config.rollout is not None else []),
    ]
    return [_checked(name, check, config) for name, check in checks]


def _checked(name: str, check: Callable[[RunConfig], str], config: RunConfig) -> CheckResult:
    try:
        return CheckResult(name, True, check(config))
    except CascadeDistillError as error:
        return CheckResult(name, False, str(error))


def _packages(_: RunConfig) -> str:
    python = ".".join(map(str, sys.version_info[:3]))
    return f"python {python}, " + ", ".join(f"{name} {version(name)}" for name in RECORDED_PACKAGES)


def _accelerator(_: RunConfig) -> str:
    return f"{accelerator_name()}, {os.cpu_count()} CPU cores"


def _student(config: RunConfig) -> str:
    from datetime import UTC, datetime

    tier = LocalTier(config.student)
    probe = Query("doctor", datetime.now(UTC), "doctor", ({"role": "user", "content": "hello"},))
    answer = tier.answer([probe], progress=False)[0]
    return f"{config.student.base_model} answers ({answer.tokens_in} tokens in, {answer.tokens_out} out)"


def _embedder(config: RunConfig) -> str:
    vectors = embed_texts(["hello", "good bye"], config.embed, progress=False)
    return f"{config.embed.model}, {vectors.shape[1]} dimensions"


def _flagship(config: RunConfig) -> str:
    names = list_models(config.flagship)
    if config.flagship.model not in names:
        known = ", ".join(names[:5])
        raise ConfigError(f"{config.flagship.base_url} does not list {config.flagship.model!r} (it lists: {known})")
    return f"{config.flagship.model} at {config.flagship.base_url}"


def _prices(config: RunConfig) -> str:
    table = PriceTable.from_yaml(config.prices)
    cheap = config.cheap.model if config.cheap else config.student.name
    small, large = table.price(cheap), table.price(config.flagship.model)
    for judge in (config.verifier.judge, config.preference_judge):
        if judge is not None:
            require_price(table, judge.price_name, "judge", config.prices)
    return (
        f"{cheap} {small.input_per_million:g}/{small.output_per_million:g}, {config.flagship.model}"
        f" {large.input_per_million:g}/{large.output_per_million:g} USD per million tokens"
    )


def _confidence(config: RunConfig) -> str:
    assert config.cheap is not None
    probe_logprobs(config.cheap)
    return f"{config.cheap.model} sends log-probabilities"


def _state(config: RunConfig) -> str:
    state = open_state(config)
    probe = Path(state.root) / ".doctor"
    try:
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write to {state.root}: {error.strerror}") from error
    return f"{state.root}, {state.traces.count()} traces in {state.traces_at or 'traces.db'}"


def _champion(config: RunConfig) -> str:
    registry = open_state(config).registry
    if "champion" not in registry.aliases():
        return "none yet: `replay` calibrates and registers the base model"
    champion = registry.resolve("champion")
    return f"{champion.id}, adapter {(champion.adapter_digest or 'none')[:12]}"


def _fleet(config: RunConfig) -> str:
    assert config.rollout is not None
    found, key_env = [], config.rollout.api_key_env
    for url in config.rollout.replicas:
        with Replica(url, key=os.environ.get(key_env) if key_env else None, timeout_s=10.0) as replica:
            adapters = [served.name for served in replica.models() if served.parent]
        found.append(f"{url}: {', '.join(adapters) or 'no adapter yet'}")
    return "; ".join(found)
