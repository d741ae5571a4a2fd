"""Making a version serve: the registry's alias alone, or a fleet of servers first and the alias then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cascade.errors import InputError
from cascade.local import LocalTier
from cascade.store import newest
from cascade.trace import Query
from flows.config import RunConfig
from flows.context import State
from promotion.registry import Registry, Version
from promotion.rollout import Probe, Rollout, roll_out

ASKED = 64
"""Recent queries among which the canary's probes are chosen: those that adapter and base answer most differently."""


def promote_version(
    config: RunConfig,
    state: State,
    version: str,
    *,
    who: str,
    why: str,
    run_id: str | None = None,
    measured_against: str | None = None,
) -> Rollout | None:
    """Make a version the champion; with a fleet (`rollout`), bring every server to it first.

    Raises PromotionConflict when another one became champion meanwhile, and RolloutError when the fleet could not be
    brought to it: the old champion serves on.
    """
    registry = state.registry
    against = measured_against or registry.aliases().get("champion")

    def switch() -> object:
        return registry.promote(version, who=who, why=why, run_id=run_id, measured_against=against)

    return _serve(config, state, registry.get(version), switch)


def roll_back(config: RunConfig, state: State, *, who: str, why: str) -> Version:
    """Make the previous version champion again; the fleet has it loaded still, which is checked first."""
    previous = state.registry.resolve("previous")
    _serve(config, state, previous, lambda: state.registry.rollback(who=who, why=why))
    return state.registry.resolve("champion")


def load_candidate(config: RunConfig, state: State, version: Version) -> None:
    """Bring a fleet to a candidate that is to get a share of the traffic; no alias moves. Nothing without a fleet."""
    _serve(config, state, version, lambda: None, moves=False)


def served_name(config: RunConfig, version: Version) -> str:
    """The model name under which a fleet serves a version."""
    assert config.rollout is not None and config.cheap is not None
    return version.serving_name if version.adapter else config.rollout.served_base or config.cheap.model


def _serve(
    config: RunConfig, state: State, version: Version, switch: Callable[[], object], *, moves: bool = True
) -> Rollout | None:
    if config.rollout is None or version.adapter is None:
        switch()
        return None
    champion, previous = _aliased(state.registry, "champion"), _aliased(state.registry, "previous")
    if champion is not None and champion.id == version.id:
        switch()
        return None
    queries = [trace.query for trace in newest(state.traces, ASKED)]
    return roll_out(
        version.serving_name,
        version.adapter,
        config.rollout,
        make_probes(config, version.adapter, queries),
        switch=switch,
        serving=None if champion is None else served_name(config, champion),
        keep=[] if previous is None or moves else [served_name(config, previous)],
        ours=version.name,
    )


def make_probes(config: RunConfig, adapter: Path, queries: list[Query]) -> list[Probe]:
    """The adapter's own answers to recent queries, with the log-probabilities of adapter and base model.

    Raises InputError without queries.
    """
    if not queries:
        raise InputError("a rollout needs recent queries for its canary, and no trace is stored: replay traffic first")
    assert config.rollout is not None
    base = LocalTier(config.student.model_copy(update={"adapter": None}))
    trained = LocalTier(config.student.model_copy(update={"adapter": adapter}))
    probes = []
    for query, answer in zip(queries, trained.answer(queries, progress=False), strict=True):
        ids, n_prompt = trained.tokens(query, answer.text)
        sides = [tuple(tier.logprobs(ids)[n_prompt - 1 :]) for tier in (trained, base)]
        probes.append(Probe(tuple(ids), n_prompt, *sides))
    return sorted(probes, key=_apart, reverse=True)[: config.rollout.probes]


def _apart(probe: Probe) -> float:
    gaps = [abs(a - b) for a, b in zip(probe.trained, probe.base, strict=True)]
    return sum(gaps) / len(gaps)


def _aliased(registry: Registry, alias: str) -> Version | None:
    known = registry.aliases().get(alias)
    return None if known is None else registry.get(known)
