"""One look at a cascade in service: its reference, its traffic counted by day, the checks.

state/monitor/reference-<model>.json   what the model was measured to do, kept once
state/monitor/days/<model>/<day>.json  counts of days that are over, so that a look reads new traces alone
state/monitor/told.json                which alarms somebody has been told of
state/monitor/watch.json, dashboard.html, metrics.prom
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from cascade.cost import PriceTable
from cascade.errors import InputError
from cascade.local import LocalTier
from cascade.trace import Trace, trace_from_dict
from evaluation.replay import paired_row_from_dict
from flows.config import RunConfig
from flows.context import State
from flows.records import COLLECT, EVALUATE
from flows.rundir import RunDir, digest_file, digest_json, read_json, read_jsonl, write_json
from flows.verifying import embedder, toolbox
from monitoring.records import Watch
from monitoring.reference import FixedRow, Reference, prices_at, rows_of_traces
from monitoring.tally import Audited, Counting, Tally, by_lot, tally, thinned
from monitoring.watch import Service, look, waiting
from promotion.registry import Version

DAY = timedelta(days=1)
SETTLED = timedelta(days=2)
"""Traces may come late; a day that ended longer ago than this is counted once."""


def folder_of(state: State) -> Path:
    """Where the monitor keeps what it knows."""
    return state.root / "monitor"


def watch(config: RunConfig, state: State) -> Watch:
    """Look once. Raises InputError without traces, RegistryError without a champion."""
    span = state.traces.span()
    if span is None:
        raise InputError(
            f"no traces in {state.traces_at or state.root}: serve traffic with `cascade-distill replay` or load logs "
            "with `ingest` first"
        )
    champion = state.registry.resolve("champion")
    prices = PriceTable.from_yaml(config.prices)
    verifier = _verifier(config, champion)
    promised = config.calibration.max_error_accepted
    service = Service(config.name, champion.id, verifier, promised, prices, embedder(config))
    reference = reference_of(config, state, champion, prices)
    if reference is None:
        days = config.monitor.reference_days
        why = f"{champion.id} has not served for {days:g} days yet, and no run has measured it: nothing to compare with"
        return waiting(service, why, span.last, state.traces.count())
    counted = _days(config, state, champion, reference, prices, span.last)
    return look(service, reference, counted, span.last, config.monitor)


def forget_queries(state: State, ids: Collection[str]) -> None:
    """Take queries out of what the monitor keeps; its counts stay."""
    shutil.rmtree(folder_of(state) / "days", ignore_errors=True)  # counted again from the traces that are left
    for path in sorted(folder_of(state).glob("reference-*.json")):
        write_json(path, Reference.from_dict(read_json(path)).without(set(ids)).to_dict())


def forget_reference(state: State) -> None:
    """Let the champion be measured anew: for a verifier or a traffic that was changed on purpose."""
    model = model_of(state.registry.resolve("champion"))
    (folder_of(state) / f"reference-{model}.json").unlink(missing_ok=True)
    shutil.rmtree(folder_of(state) / "days", ignore_errors=True)


def model_of(version: Version) -> str:
    """What answers: the adapter's digest, or "base"."""
    return version.adapter_digest[:12] if version.adapter_digest else "base"


def reference_of(config: RunConfig, state: State, champion: Version, prices: PriceTable) -> Reference | None:
    """The kept reference of the champion's model, else a new one; None while there is nothing to measure it on."""
    path = folder_of(state) / f"reference-{model_of(champion)}.json"
    if path.exists():
        return Reference.from_dict(read_json(path))
    found = _from_run(config, state, champion, prices) or _from_traces(config, state, champion, prices)
    if found is not None:
        write_json(path, found.to_dict())
    return found


def _from_run(config: RunConfig, state: State, champion: Version, prices: PriceTable) -> Reference | None:
    """The held-out slice of the run that made the champion's model, where its folder is still there.

    The version in service may have been made from that one by hand.
    """
    models = [version for version in state.registry.versions() if model_of(version) == model_of(champion)]
    runs = [(version, RunDir(config.runs / (version.run_id or "none"))) for version in reversed(models)]
    measured = [(version, run) for version, run in runs if run.manifest(EVALUATE) is not None]
    if not measured or champion.adapter_digest is None:
        return None
    version, run = measured[0]
    rows = [paired_row_from_dict(row) for row in read_jsonl(run.stage(EVALUATE) / "pairs.jsonl")]
    parts = [_part(run, part) for part in ("calibration", "heldout")]
    queries = {trace.query.id: trace.query for part in parts for trace in part}
    until = datetime.fromisoformat(read_json(run.root / "run.json")["until"])
    kept = set(by_lot(row.query_id for row in rows)[: config.monitor.replay_rows])
    return Reference(
        model=model_of(champion),
        version=version.id,
        source=f"{len(rows):,} held-out queries of run {run.run_id}",
        until=until,
        n=len(rows),
        n_escalated=sum(not row.candidate.accepted for row in rows),
        prices=prices_at(prices, until),
        texts=thinned({i: query.text for i, query in queries.items()}, config.monitor.sample),
        rows=tuple(
            FixedRow(queries[r.query_id], r.candidate.answer, r.candidate.correct_cheap >= 1.0, r.candidate.accepted)
            for r in rows
            if r.query_id in kept and not r.candidate.routed
        ),
    )


def _part(run: RunDir, part: str) -> list[Trace]:
    return [trace_from_dict(row) for row in read_jsonl(run.stage(COLLECT) / f"{part}.jsonl")]


def _from_traces(config: RunConfig, state: State, champion: Version, prices: PriceTable) -> Reference | None:
    """The champion's own first days, once they are over."""
    policy, span = config.monitor, state.traces.span()
    others = _others(state, champion)
    day = span.first.replace(hour=0, minute=0, second=0, microsecond=0) if span else None
    while span is not None and day is not None and day <= span.last:
        times = [t.query.time for t in state.traces.between(day, day + DAY) if t.cheap_version not in others]
        if times:
            break
        day += DAY
    else:
        return None
    start, until = min(times), min(times) + timedelta(days=policy.reference_days)
    if span.last < until:
        return None
    n = n_escalated = 0
    texts: dict[str, str] = {}
    rows: list[FixedRow] = []
    per_day = math.ceil(policy.replay_rows / policy.reference_days)
    while day < until:  # a day at a time: a week of large traffic would not fit into memory
        found = state.traces.between(max(day, start), min(day + DAY, until))
        own = [trace for trace in found if trace.cheap_version not in others]
        n, n_escalated = n + len(own), n_escalated + sum(trace.escalated for trace in own)
        texts = thinned(texts | {t.query.id: t.query.text for t in own}, policy.sample)
        rows += rows_of_traces(own, config.grade, config.reference, per_day)
        day += DAY
    return Reference(
        model=model_of(champion),
        version=champion.id,
        source=f"its first {policy.reference_days:g} days in service, {n:,} queries",
        until=until,
        n=n,
        n_escalated=n_escalated,
        prices=prices_at(prices, until),
        texts=texts,
        rows=tuple(rows),
    )


def _others(state: State, champion: Version) -> set[str]:
    """Versions whose traces say nothing of the champion: another model's, or the same one's under another verifier,
    whose verdicts were others. Names that the registry lacks count as the champion's."""
    return {version.id for version in state.registry.versions()} - {champion.id}


def _verifier(config: RunConfig, champion: Version) -> Any:
    if champion.verifier is None:
        return None
    student = config.student.model_copy(update={"adapter": champion.adapter})
    return toolbox(config, lambda: LocalTier(student)).open(champion.verifier)


def _days(
    config: RunConfig, state: State, champion: Version, reference: Reference, prices: PriceTable, last: datetime
) -> dict[date, Tally]:
    """Counts by day since the reference, of the newest weeks."""
    policy, others = config.monitor, _others(state, champion)
    how = Counting(prices, reference.prices, config.grade, config.reference, policy.sample)
    kept = folder_of(state) / "days" / reference.model
    settings = {
        "prices": digest_file(config.prices), "then": {m: list(p) for m, p in reference.prices.items()},
        "grade": config.grade, "reference": config.reference, "sample": policy.sample, "others": sorted(others),
    }  # fmt: skip
    key = digest_json(settings)
    start = max(reference.until, last - timedelta(weeks=policy.weeks))
    day = start.replace(hour=0, minute=0, second=0, microsecond=0)
    found: dict[date, Tally] = {}
    while day <= last:
        path, whole = kept / f"{day:%Y-%m-%d}.json", day >= reference.until
        row = read_json(path) if path.exists() else None
        if row is not None and row["key"] == key:
            found[day.date()] = _tally_from_dict(row["tally"])
        else:
            traces = state.traces.between(max(day, reference.until), day + DAY)
            found[day.date()] = tally((t for t in traces if t.cheap_version not in others), how)
            if whole and day + DAY + SETTLED <= last:
                write_json(path, {"key": key, "tally": asdict(found[day.date()])})
        day += DAY
    return found


def _tally_from_dict(row: Mapping[str, Any]) -> Tally:
    audited = [Audited(**audit) for audit in row["audited"]]
    versions = {version: datetime.fromisoformat(time) for version, time in row["versions"].items()}
    return Tally(**{**row, "audited": audited, "versions": versions})
