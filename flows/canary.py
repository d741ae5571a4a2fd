"""Live traffic with a small share for the candidate: compared as it is served, taken back by itself when worse."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from cascade.cascade import Cascade
from cascade.errors import InputError
from cascade.grade import grade, reference_text
from cascade.store import TraceStore
from cascade.trace import Query, Trace
from cascade.traffic import read_traffic
from flows.config import RunConfig
from flows.context import open_state
from flows.deploy import load_candidate
from flows.serve import cascade_of, serving_buyer
from promotion.online import Arm, CanaryWatch, Standing, arm_of

OUTCOMES = ("answered_cheaply", "audited_right")


@dataclass(frozen=True, slots=True)
class CanaryResult:
    """How a candidate did on its share."""

    candidate: str
    champion: str
    n_candidate: int
    n_champion: int
    standing: Standing
    sentence: str
    taken_back_after: int | None
    """Queries served when it was taken back; None when it was not."""


@dataclass(slots=True)
class _Tap:
    """Keeps traces and remembers what was added: what the watch looks at."""

    store: TraceStore
    added: list[Trace] = field(default_factory=list)

    def add(self, traces: Sequence[Trace]) -> int:
        self.added += traces
        return self.store.add(traces)

    def known(self, ids: Collection[str]) -> set[str]:
        return self.store.known(ids)


def replay_canary(
    config: RunConfig, traffic: Path, share: float, *, seed: int = 0, progress: bool = True
) -> CanaryResult:
    """Serve a traffic file with `share` of it answered by the registry's candidate.

    The two are compared on how much is answered cheaply and, where answers are audited, on how much of that is right.
    Once either is shown to be worse (at any time, at a level of 5 % over all looks) the candidate gets no more queries
    and loses its alias; the champion serves the rest. Raises RegistryError without a candidate, RolloutError when a
    fleet cannot be brought to it.
    """
    state = open_state(config)
    champion, candidate = state.registry.resolve("champion"), state.registry.resolve("candidate")
    load_candidate(config, state, candidate)
    buyer = serving_buyer(config, state)
    arms = {
        Arm.CHAMPION: cascade_of(config, state, buyer, champion),
        Arm.CANDIDATE: cascade_of(config, state, buyer, candidate),
    }
    queries = read_traffic(traffic).queries
    known = state.traces.known([query.id for query in queries])
    todo = [query for query in queries if query.id not in known]
    if not todo:
        raise InputError(f"{traffic} holds no query that has not been served: give the canary new traffic")
    watch, counts, taken_back = CanaryWatch(OUTCOMES, margin=config.gate.cluster_margin), dict.fromkeys(Arm, 0), None
    for start in tqdm(range(0, len(todo), config.serve.chunk), "canary", unit="chunk", disable=not progress):
        part = todo[start : start + config.serve.chunk]
        live = share if taken_back is None else 0.0
        for arm, trace in _serve(arms, part, live, seed, state.traces):
            counts[arm] += 1
            watch.observe(arm, **_outcomes(trace, config))
        if taken_back is None and watch.standing is Standing.WORSE:
            taken_back = sum(counts.values())
            state.registry.reject(candidate.id, who="canary", why=f"taken back by itself: {watch.sentence()}")
    return CanaryResult(
        candidate.id,
        champion.id,
        counts[Arm.CANDIDATE],
        counts[Arm.CHAMPION],
        watch.standing if taken_back is None else Standing.WORSE,
        watch.sentence(),
        taken_back,
    )


def _serve(
    arms: dict[Arm, Cascade], part: Sequence[Query], share: float, seed: int, store: TraceStore
) -> list[tuple[Arm, Trace]]:
    """One chunk, each query by its arm; traces in the traffic's order."""
    arm_by_id = {query.id: arm_of(query.id, share, seed) for query in part}
    tap = _Tap(store)
    for arm, cascade in arms.items():
        mine = [query for query in part if arm_by_id[query.id] is arm]
        if mine:
            cascade.serve(mine, tap, len(mine), progress=False)
    order = {query.id: place for place, query in enumerate(part)}
    served = sorted(tap.added, key=lambda trace: order[trace.query.id])
    return [(arm_by_id[trace.query.id], trace) for trace in served]


def _outcomes(trace: Trace, config: RunConfig) -> dict[str, float]:
    found = {"answered_cheaply": float(not trace.escalated)}
    if trace.audited and trace.flagship is not None and trace.cheap is not None:
        reference = reference_text(trace.query, trace.flagship, config.reference)
        found["audited_right"] = float(grade(trace.cheap.text, reference, config.grade) >= 1.0)
    return found
