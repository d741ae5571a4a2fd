"""Checks that a run would otherwise fail on after it has begun to spend."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from cascade.client import list_models, probe_logprobs
from cascade.cost import PriceTable
from cascade.errors import CascadeDistillError, ConfigError
from cascade.fleet import Replica
from cascade.local import LocalTier, accelerator_name
from cascade.request import OpenAITierConfig
from cascade.trace import Query
from cascade.verifiers.pricing import require_price
from clustering.embed import embed_texts
from finetune.preflight import probe_template
from flows.config import RunConfig
from flows.context import open_state
from flows.run_cost import training_usd
from flows.rundir import RECORDED_PACKAGES
from flows.shards import open_runner

PROJECT = "cascade-distill"


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
        ("dependencies", _dependencies),
        ("accelerator", _accelerator),
        ("student", _student),
        ("chat template", _template),
        ("embedder", _embedder),
        ("flagship", _flagship),
        *([("cheap endpoint", _cheap)] if config.cheap is not None else []),
        *([("judge of the verifier", _verifier_judge)] if config.verifier.judge is not None else []),
        *([("pairwise judge", _preference_judge)] if config.preference_judge is not None else []),
        ("prices", _prices),
        *([("confidence", _confidence)] if config.cheap is not None and config.verifier.kind == "confidence" else []),
        ("state folder", _state),
        ("champion", _champion),
        *([("fleet", _fleet)] if config.rollout is not None else []),
        *([("runner", _runner)] if config.runner.kind == "ray" else []),
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


def _dependencies(_: RunConfig) -> str:
    """Every package that the project asks for, extras apart, in a version that it takes."""
    wanted = [Requirement(line) for line in requires(PROJECT) or []]
    plain = [need for need in wanted if need.marker is None or need.marker.evaluate({"extra": ""})]
    wrong = [f"{need} ({found or 'missing'})" for need in plain if not _fits(need, found := _version(need.name))]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)}: install with `pip install -c constraints.txt -e .`")
    return f"{len(plain)} packages, each in a version that the project takes"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _fits(need: Requirement, found: str | None) -> bool:
    return found is not None and need.specifier.contains(found, prereleases=True)


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


def _template(config: RunConfig) -> str:
    stop = probe_template(config.student.base_model, config.student.revision, config.train.serving_template)
    return f"trained and served alike, turns end with {stop}"


def _flagship(config: RunConfig) -> str:
    return _listed(config.flagship)


def _cheap(config: RunConfig) -> str:
    assert config.cheap is not None
    return _listed(config.cheap)


def _verifier_judge(config: RunConfig) -> str:
    assert config.verifier.judge is not None
    return _listed(config.verifier.judge)


def _preference_judge(config: RunConfig) -> str:
    assert config.preference_judge is not None
    return _listed(config.preference_judge)


def _listed(tier: OpenAITierConfig) -> str:
    """The endpoint answers with this key, and lists the model."""
    names = list_models(tier)
    if tier.model not in names:
        raise ConfigError(f"{tier.base_url} does not list {tier.model!r} (it lists: {', '.join(names[:5])})")
    return f"{tier.model} at {tier.base_url}"


def _prices(config: RunConfig) -> str:
    table = PriceTable.from_yaml(config.prices)
    cheap, flagship = config.cheap.price_name if config.cheap else config.student.name, config.flagship.price_name
    small, large = table.price(cheap), table.price(flagship)
    for judge in (config.verifier.judge, config.preference_judge):
        if judge is not None:
            require_price(table, judge.price_name, "judge", config.prices)
    compute = "" if training_usd(table, 1.0) is not None else "; own compute has no price, so a run's cost is unknown"
    return (
        f"{cheap} {small.input_per_million:g}/{small.output_per_million:g}, {flagship}"
        f" {large.input_per_million:g}/{large.output_per_million:g} USD per million tokens{compute}"
    )


def _runner(config: RunConfig) -> str:
    """Ray starts, or is reached, and runs something."""
    with open_runner(config.runner) as run:
        (there,) = run(_home, [None])
    return f"Ray runs tasks ({there})"


def _home(_: None) -> Path:
    return Path.cwd()


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
