"""Trace stores under a million traces: load rate, and time and memory to collect a week's escalations.

    python -m benchmarks.stores --stores sqlite,postgresql,lake

Eight weeks of traffic are loaded in order of time up to each size; at each size a process of its own opens the store
and collects the escalations of the last week (an eighth of the largest size): read, parsed, and graded against the
flagship's answers. Another one runs a run's collect stage on that week: all its traces, found, copied unparsed into the
run's folder in three parts, and digested. At the largest size, longer windows show how the cost grows: the exponent is
the slope of the logarithms of CPU seconds and number, 1 where growth is linear.

Traces are drawn from a seed (about 1.5 kB each as JSON). The first ones are added as serving adds them, which gives the
load rate; the others are copies of those with ids and times of their own, loaded in bulk past the store's own code so
that the whole takes minutes. PostgreSQL is a server of its own, with syncs. The page cache is warm: what is measured is
the store, not the disk. CPU seconds are those of the collecting process (not of PostgreSQL's server): a busy machine
stretches the clock's seconds more than these.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascade.lake import LakeTraceStore
    from cascade.store import TraceStore
    from cascade.trace import Trace

START = datetime(2026, 9, 7, tzinfo=UTC)
WEEK = timedelta(days=7)
WEEKS = 8
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ADDED = 20_000
"""Traces that are added one batch after the other."""
ESCALATED = 0.3


def main() -> None:
    """Parse the command line; measure; print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", default="sqlite,postgresql,lake", help="which to measure")
    parser.add_argument("--sizes", default="250000,500000,1000000", help="numbers of traces to measure at")
    parser.add_argument("--batch", type=int, default=5000, help="traces added at a time")
    parser.add_argument("--windows", default="1,2,4", help="weeks of the longer windows")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None, help="where to make the stores (deleted afterwards)")
    for name in MEASURED:
        parser.add_argument(f"--{name}", nargs=3, metavar=("STORE", "FROM", "TO"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name, measure in MEASURED.items():
        if asked := getattr(arguments, name):
            print(json.dumps(measure(*asked)))
            return
    sizes = sorted(int(size) for size in arguments.sizes.split(","))
    weeks = [int(number) for number in arguments.windows.split(",")]
    for kind in arguments.stores.split(","):
        _measure(kind, sizes, weeks, arguments.batch, arguments.seed, arguments.folder)
    print("made by: python -m benchmarks.stores " + " ".join(sys.argv[1:]))


def _measure(kind: str, sizes: list[int], weeks: list[int], batch: int, seed: int, folder: Path | None) -> None:
    from cascade.store import open_traces
    from flows.console import say, table
    from lab.postgres import PostgresMissingError, temporary_postgres

    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cascade-stores-", dir=folder)))
        try:
            target = {"sqlite": str(root / "traces.db"), "lake": f"lake:{root / 'lake'}"}.get(kind) or (
                stack.enter_context(temporary_postgres(folder=folder))
            )
        except PostgresMissingError as error:
            say(f"{kind}: {error}")
            return
        store = open_traces(target)
        added = list(make_traces(min(ADDED, sizes[0]), sizes[-1], seed))
        begun = time.perf_counter()
        for first in range(0, len(added), batch):
            store.add(added[first : first + batch])
        rate = len(added) / (time.perf_counter() - begun)
        rows, loaded = [], len(added)
        for size in sizes:
            begun, cpu_begun = time.perf_counter(), time.process_time()
            _bulk(store, added, range(loaded, size), WEEKS * WEEK / sizes[-1])
            seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
            n = size - loaded
            print(f"{kind}: {n:,} loaded in {seconds:.0f} s ({cpu_seconds:.0f} s CPU)", file=sys.stderr, flush=True)
            loaded = size
            assert store.count() == size
            end = START + size * (WEEKS * WEEK / sizes[-1])
            measured = _row(target, end - WEEK, end) | _fixed_costs(store, added[:batch])
            rows.append({"traces": f"{size:,}", **measured})
            print(f"{kind}: {rows[-1]}", file=sys.stderr, flush=True)
        table(f"{kind}: collecting the last week's escalations ({rate:,.0f} traces added a second)", rows)
        windows = [{"weeks": n, **_row(target, end - n * WEEK, end)} for n in weeks]
        table(f"{kind}: longer windows, of {sizes[-1]:,} traces", windows)
        if len(set(weeks)) > 1:
            growth = {name: _exponent([row[name] for row in windows], weeks) for name in ("CPU s", "stage CPU s")}
            print(f"{kind}: growth with the window: " + ", ".join(f"{k} exponent {v:.2f}" for k, v in growth.items()))
        store.close()


def _row(target: str, start: datetime, end: datetime) -> dict[str, Any]:
    """Each in a process of its own: seconds from opening the store, of the clock and of its CPU; peak memory."""
    found = {name: _apart(name, target, start, end) for name in MEASURED}
    collected, staged = found["collect"], found["stage"]
    return {
        "escalations": collected["n"],
        "s": round(collected["seconds"], 2),
        "CPU s": round(collected["cpu_seconds"], 2),
        "CPU us each": round(1e6 * collected["cpu_seconds"] / max(1, collected["n"])),
        "peak MiB": round(collected["peak_mib"]),
        "staged": staged["n"],
        "stage s": round(staged["seconds"], 2),
        "stage CPU s": round(staged["cpu_seconds"], 2),
        "stage MiB": round(staged["peak_mib"]),
    }


def _apart(name: str, target: str, start: datetime, end: datetime) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.stores", f"--{name}", target, start.isoformat(), end.isoformat()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def _exponent(seconds: list[float], weeks: list[int]) -> float:
    """Slope of log seconds over log weeks by least squares, of two windows or more."""
    import numpy as np

    return float(np.polyfit(np.log(weeks), np.log(seconds), 1)[0])


def _fixed_costs(store: TraceStore, known: list[Trace]) -> dict[str, Any]:
    """What else a run asks of a store, in milliseconds; "again": a batch that it has already."""

    def ms(call: Any) -> float:
        begun = time.perf_counter()
        call()
        return round(1e3 * (time.perf_counter() - begun), 1)

    return {"span ms": ms(store.span), "count ms": ms(store.count), "again ms": ms(lambda: store.add(known))}


def _bulk(store: TraceStore, added: list[Trace], numbers: range, step: timedelta) -> None:
    """Copies of `added`, numbered and timed anew, by the database's own bulk load (or as one file a day)."""
    from cascade.lake import LakeTraceStore
    from cascade.store import RECORDS, to_json, to_row

    names = [*to_row(added[0])]
    templates = []
    for trace in added:
        row = to_row(trace)
        texts = [None if row[name] is None else to_json(row[name]) for name in RECORDS]
        tail = str(texts[0]).split('"route"', 1)[1]
        templates.append((tuple(row[name] for name in names if name not in RECORDS)[2:], tail, tuple(texts[1:])))

    def rows(part: range) -> Iterator[tuple[Any, ...]]:
        for number in part:
            plain, tail, texts = templates[number % len(templates)]
            moment, name = START + number * step, f"q-{number:09d}"
            query = f'{{"id":"{name}","time":"{moment.isoformat()}","route"{tail}'
            yield (name, (moment - EPOCH) // timedelta(microseconds=1), *plain, query, *texts)

    if isinstance(store, LakeTraceStore):
        per_day = round(timedelta(days=1) / step)
        for first in range(numbers.start, numbers.stop, per_day):
            _bulk_day(store, names, list(rows(range(first, min(first + per_day, numbers.stop)))))
    else:
        _bulk_sql(store, names, rows(numbers))


def _bulk_day(store: LakeTraceStore, names: list[str], rows: list[tuple[Any, ...]]) -> None:
    import pyarrow as pa

    from cascade.lake import _schema
    from cascade.lake_ids import hash_id
    from cascade.lake_log import Change
    from cascade.store import from_microseconds

    days: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        days.setdefault(f"day={from_microseconds(row[1]):%Y-%m-%d}", []).append(row)
    files = []
    for day, part in days.items():
        columns = dict(zip(names, zip(*part, strict=True), strict=True))
        columns["id_hash"] = tuple(hash_id(row[0]) for row in part)
        files.append(store._write_table(pa.table({f.name: pa.array(columns[f.name], f.type) for f in _schema()}), day))
    store._log.commit(lambda: (Change(tuple(files)), 0))


def _bulk_sql(store: Any, names: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    raw = store._engine.raw_connection()
    try:
        cursor = raw.cursor()
        if store._engine.dialect.name == "sqlite":
            cursor.execute("BEGIN IMMEDIATE")
            cursor.executemany(f"INSERT INTO traces ({','.join(names)}) VALUES ({','.join('?' * len(names))})", rows)
            cursor.execute("COMMIT")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # as after traces that came in day by day
        else:
            with cursor.copy(f"COPY traces ({','.join(names)}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
            raw.commit()
    finally:
        raw.close()


def _collect(target: str, start: str, end: str) -> dict[str, Any]:
    from cascade.store import open_traces
    from clustering.collect import collect_escalations

    since, until = datetime.fromisoformat(start), datetime.fromisoformat(end)
    begun, cpu_begun = time.perf_counter(), time.process_time()
    store = open_traces(target)
    found = collect_escalations(store.escalated(since, until), since, until, "json_exact").escalations
    measured = _measured(begun, cpu_begun)
    store.close()
    return {"n": len(found), **measured}


def _stage(target: str, start: str, end: str) -> dict[str, Any]:
    from flows.config import build_config, merge, read_yaml
    from flows.context import RunContext, open_state
    from flows.rundir import RunDir
    from flows.stages import collect
    from flows.world import NOT_STARTED

    demo = {k: v for k, v in read_yaml(Path("configs/demo.yaml")).items() if k != "lab"}
    since, until = datetime.fromisoformat(start), datetime.fromisoformat(end)
    with tempfile.TemporaryDirectory(prefix="cascade-stores-run-") as name:
        here = {"state": f"{name}/state", "runs": f"{name}/runs", "traces": target}
        config = build_config(merge(merge(NOT_STARTED, demo), here), "benchmark")
        begun, cpu_begun = time.perf_counter(), time.process_time()
        state = open_state(config)
        counts = collect(RunContext(config, RunDir(Path(name) / "run"), since, until, "v1", state)).counts
        measured = _measured(begun, cpu_begun)
        state.traces.close()
    return {"n": counts["traces"], **measured}


def _measured(begun: float, cpu_begun: float) -> dict[str, float]:
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": int(peak.split()[1]) / 1024}


MEASURED = {"collect": _collect, "stage": _stage}


def make_traces(n: int, of: int, seed: int) -> Iterator[Trace]:
    """The first n of `of` traces over `WEEKS` weeks in order of time: support queries with structured answers."""
    import random

    from cascade.trace import Answer, Opinion, Outcome, Query, TokenConfidence, Trace, Verdict

    rng = random.Random(seed)
    words = [f"w{rng.randrange(10**6):06d}" for _ in range(3000)]
    schema = {"type": "object", "required": ["intent", "order"], "properties": {"intent": {"type": "string"}}}
    system = {"role": "system", "content": "You answer support questions with one JSON object. " * 6}
    step = WEEKS * WEEK / of
    cheap = Answer("", "small", 320, 24, 0.21, "stop", TokenConfidence(24, -0.11, -1.9, -0.6, 0.08))
    large = Answer("", "large", 320, 26, 1.4, "stop", None)
    opinion = Opinion("token_confidence", -0.11, 0.0, 0.0)
    for number in range(n):
        text = " ".join(rng.choices(words, k=rng.randint(8, 90)))
        escalated = rng.random() < ESCALATED
        order = rng.randrange(10**6)
        right = not escalated or rng.random() < 0.5
        answer = json.dumps({"intent": words[order % 150], "order": str(order), "note": text[:80]})
        cheap_answer = answer if right else answer.replace(str(order), str(order + 1))
        verdict = Verdict(
            Outcome.REJECT if escalated else Outcome.ACCEPT,
            round(rng.random(), 6),
            ("p_wrong above the threshold",) if escalated else (),
            score=-0.11,
            opinions=(opinion,),
        )
        yield Trace(
            query=Query(
                id=f"q-{number:09d}",
                time=START + number * step,
                route="support",
                messages=(system, {"role": "user", "content": text}),
                schema=schema,
                user=f"{rng.randrange(20_000):032x}",
            ),
            cheap=replace(cheap, text=cheap_answer),
            cheap_version="v7",
            verdict=verdict,
            escalated=escalated,
            audited=False,
            audit_propensity=0.02,
            flagship=replace(large, text=answer) if escalated else None,
            cost_usd=0.0011 if escalated else 0.0001,
        )


if __name__ == "__main__":
    main()
