"""Serving a traffic file through the cascade that the registry calls champion."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from cascade.cascade import Cascade, ServeReport, cold_start
from cascade.client import OpenAITier
from cascade.cost import PriceTable
from cascade.errors import InputError
from cascade.fleet import FleetTier
from cascade.live import Live
from cascade.local import LocalTier
from cascade.purchase import Budget, Buyer
from cascade.tiers import SamplingTier
from cascade.trace import Query
from cascade.traffic import read_traffic, write_rejected
from flows.config import RunConfig
from flows.context import State, open_state
from flows.deploy import served_name
from flows.verifying import keep, toolbox
from promotion.registry import Version


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay of a traffic file did."""

    served: ServeReport
    champion: str
    n_cold_start: int
    """Queries that went to both tiers to calibrate a first verifier; they leave no trace. 0 when one was there."""
    n_rejected: int
    rejected_path: Path | None


def replay_traffic(config: RunConfig, traffic: Path, progress: bool = True) -> Replay:
    """Serve a traffic file and store its traces; queries that already have one are skipped.

    Without a champion the first `serve.cold_start_queries` queries calibrate the base model's verifier.
    """
    state = open_state(config)
    file = read_traffic(traffic)
    rejected_path = state.root / f"{traffic.stem}.rejected.jsonl" if file.rejected else None
    if rejected_path:
        write_rejected(rejected_path, file.rejected)
    if not file.queries:
        raise InputError(f"{traffic} holds no usable query ({len(file.rejected)} rejected rows): see {rejected_path}")
    queries, n_cold = file.queries, 0
    buyer = serving_buyer(config, state)
    if "champion" not in state.registry.aliases():
        n_cold = _cold_start(config, state, buyer, queries)
    champion = state.registry.resolve("champion")
    calibrated_until = _cold_start_until(state)
    queries = [q for q in queries if calibrated_until is None or q.time > calibrated_until]
    live = Live(
        lambda: state.registry.aliases()["champion"],
        lambda version: cascade_of(config, state, buyer, state.registry.resolve(version)),
        background=config.rollout is None,  # a fleet has it loaded before the alias moves
    )
    cascade = replace(live(), follow=live)
    served = cascade.serve(queries, state.traces, config.serve.chunk, progress=progress)
    return Replay(served, champion.id, n_cold, len(file.rejected), rejected_path)


def _cold_start_until(state: State) -> datetime | None:
    """Time of the last query that a cold start answered by the flagship."""
    times = [v.metadata["cold_start_until"] for v in state.registry.versions() if "cold_start_until" in v.metadata]
    return datetime.fromisoformat(times[-1]) if times else None


def cascade_of(config: RunConfig, state: State, buyer: Buyer, version: Version) -> Cascade:
    """The cascade that serves a version: its model, the verifier fitted to it, and its name, together."""
    cheap = cheap_tier(config, version)
    return Cascade(
        cheap=cheap,
        verifier=toolbox(config, lambda: sampler(cheap)).open(version.verifier) if version.verifier else None,
        flagship=buyer,
        prices=PriceTable.from_yaml(config.prices),
        version=version.id,
        audit_rate=config.serve.audit_rate,
        seed=config.seed,
    )


def cheap_tier(config: RunConfig, champion: Version) -> OpenAITier | FleetTier | LocalTier:
    """Where cheap answers come from: the fleet or the endpoint that is configured, else the student in this process."""
    if config.rollout is not None and config.cheap is not None:
        name = served_name(config, champion)
        return FleetTier(config.cheap, config.rollout.replicas, lambda: name)
    if config.cheap is not None:
        return OpenAITier(config.cheap)
    return LocalTier(config.student.model_copy(update={"adapter": champion.adapter}))


def sampler(tier: OpenAITier | FleetTier | LocalTier) -> SamplingTier:
    """The tier to draw self-consistency samples from."""
    return tier.sampler() if isinstance(tier, FleetTier) else tier


def _cold_start(config: RunConfig, state: State, buyer: Buyer, queries: list[Query]) -> int:
    first = queries[: config.serve.cold_start_queries]
    if len(queries) <= len(first):
        raise InputError(
            f"the traffic holds {len(queries)} queries, and a cascade without a champion needs the first"
            f" {config.serve.cold_start_queries} to calibrate its verifier: lower serve.cold_start_queries"
        )
    base = Version(
        id="v0", name=config.student.name, base_model=config.student.base_model, adapter=None, adapter_digest=None,
        verifier=None, report=None, run_id=None, created="",
    )  # fmt: skip
    cheap = cheap_tier(config, base)
    tools = toolbox(config, lambda: sampler(cheap))
    verifier = cold_start(
        first,
        cheap,
        buyer,
        config.calibration,
        config.rules,
        grade_kind=config.grade,
        reference_kind=config.reference,
        scorers=tools.scorers(config.calibration.signal, None),
        chain=config.verifier.chain,
    )
    version = state.registry.register(
        name=config.student.name,
        base_model=config.student.base_model,
        verifier=keep(verifier, tools),
        run_id="cold-start",
        metadata={"cold_start_until": first[-1].time.isoformat()},
        why="base model with a verifier calibrated on the first queries"
        + "".join(f"; without {name}: {reason}" for name, reason in verifier.left_out.items()),
    )
    state.registry.promote(version.id, who="replay", why="no champion yet", run_id="cold-start")
    return len(first)


def serving_buyer(config: RunConfig, state: State) -> Buyer:
    """Serving escalates whatever the verifier rejects; the budget of a run does not bind it."""
    tier = OpenAITier(config.flagship)
    return Buyer(tier, PriceTable.from_yaml(config.prices), state.answers, Budget(math.inf), run_id="serving")
