"""Trace stores under a million traces: load rate, and time and memory to collect a week's escalations.

    python -m benchmarks.stores --stores sqlite
    python -m benchmarks.stores --stores postgresql
    python -m benchmarks.stores --stores lake

Eight weeks of traffic are loaded in order of time, in batches, up to each size; at each size a process of its own opens
the store and collects the escalations of the last week (an eighth of the largest size), as an improvement run does:
read, parsed, and graded against the flagship's answers. At the largest size, windows of 1, 2 and 4 weeks show how
the cost grows. Traces are drawn from a seed (about 1.5 kB each as JSON); PostgreSQL is a server of its own, with syncs.
The page cache is warm: what is measured is the store, not the disk.
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
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascade.trace import Trace

START = datetime(2026, 9, 7, tzinfo=UTC)
WEEK = timedelta(days=7)
WEEKS = 8
ESCALATED = 0.3


def main() -> None:
    """Parse the command line; measure; print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", default="sqlite,postgresql,lake", help="which to measure")
    parser.add_argument("--sizes", default="125000,250000,500000,1000000", help="numbers of traces to measure at")
    parser.add_argument("--batch", type=int, default=5000, help="traces added at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None, help="where to make the stores (deleted afterwards)")
    parser.add_argument("--collect", nargs=3, metavar=("STORE", "FROM", "TO"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.collect:
        print(json.dumps(_collect(*arguments.collect)))
        return
    sizes = sorted(int(size) for size in arguments.sizes.split(","))
    for kind in arguments.stores.split(","):
        _measure(kind, sizes, arguments.batch, arguments.seed, arguments.folder)
    print("made by: python -m benchmarks.stores " + " ".join(sys.argv[1:]))


def _measure(kind: str, sizes: list[int], batch: int, seed: int, folder: Path | None) -> None:
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
        traces = make_traces(sizes[-1], seed)
        rows, loaded, spent = [], 0, 0.0
        say(f"{kind}: loading")
        for size in sizes:
            while loaded < size:
                part = list(islice(traces, min(batch, size - loaded)))
                begun = time.perf_counter()
                assert store.add(part) == len(part)
                spent += time.perf_counter() - begun
                loaded += len(part)
            end = part[-1].query.time + timedelta(microseconds=1)
            rows.append(
                {"traces": f"{size:,}", **_row(target, end - WEEK, end), **_fixed_costs(store, part, spent, size)}
            )
            print(f"{kind}: {size:,} traces measured", file=sys.stderr, flush=True)
        table(f"{kind}: collecting the last week's escalations", rows)
        windows = [{"weeks": weeks, **_row(target, end - weeks * WEEK, end)} for weeks in (1, 2, 4)]
        table(f"{kind}: collecting the escalations of longer windows, of {sizes[-1]:,} traces", windows)
        store.close()


def _row(target: str, start: datetime, end: datetime) -> dict[str, Any]:
    """Collect in a process of its own: seconds from opening the store, of the clock and of its CPU; peak memory."""
    command = [sys.executable, "-m", "benchmarks.stores", "--collect", target, start.isoformat(), end.isoformat()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return {
        "escalations": found["n"],
        "seconds": round(found["seconds"], 2),
        "CPU seconds": round(found["cpu_seconds"], 2),
        "CPU us each": round(1e6 * found["cpu_seconds"] / max(1, found["n"])),
        "peak MiB": round(found["peak_mib"]),
    }


def _fixed_costs(store: Any, part: list[Trace], spent: float, size: int) -> dict[str, Any]:
    """What else a run asks of a store, in milliseconds, and the load rate so far."""

    def ms(call: Any) -> float:
        begun = time.perf_counter()
        call()
        return round(1e3 * (time.perf_counter() - begun), 1)

    return {
        "loaded/s": round(size / spent),
        "span ms": ms(store.span),
        "count ms": ms(store.count),
        "batch again ms": ms(lambda: store.add(part)),
    }


def _collect(target: str, start: str, end: str) -> dict[str, Any]:
    from cascade.store import open_traces
    from clustering.collect import collect_escalations

    since, until = datetime.fromisoformat(start), datetime.fromisoformat(end)
    begun, cpu_begun = time.perf_counter(), time.process_time()
    store = open_traces(target)
    found = collect_escalations(store.escalated(since, until), since, until, "json_exact").escalations
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
    store.close()
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return {"n": len(found), "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": int(peak.split()[1]) / 1024}


def make_traces(n: int, seed: int) -> Iterator[Trace]:
    """n traces over `WEEKS` weeks in order of time, one at a time: support queries with structured answers."""
    import random

    from cascade.trace import Answer, Opinion, Outcome, Query, TokenConfidence, Trace, Verdict

    rng = random.Random(seed)
    words = [f"w{rng.randrange(10**6):06d}" for _ in range(3000)]
    schema = {"type": "object", "required": ["intent", "order"], "properties": {"intent": {"type": "string"}}}
    system = {"role": "system", "content": "You answer support questions with one JSON object. " * 6}
    step = WEEKS * WEEK / n
    cheap = Answer("", "small", 320, 24, 0.21, "stop", TokenConfidence(24, -0.11, -1.9, -0.6, 0.08))
    large = Answer("", "large", 320, 26, 1.4, "stop", None)
    opinion = Opinion("token_confidence", -0.11, 0.0, 0.0)
    for number in range(n):
        text = " ".join(rng.choices(words, k=rng.randint(8, 90)))
        escalated = rng.random() < ESCALATED
        order = rng.randrange(10**6)
        answer = json.dumps({"intent": words[order % 150], "order": str(order), "note": text[:80]})
        verdict = Verdict(
            Outcome.REJECT if escalated else Outcome.ACCEPT,
            round(rng.random(), 6),
            ("p_wrong above the threshold",) if escalated else (),
            score=-0.11,
            opinions=(opinion,),
        )
        yield Trace(
            query=Query(
                id=f"q-{seed}-{number:09d}",
                time=START + number * step,
                route="support",
                messages=(system, {"role": "user", "content": text}),
                schema=schema,
                user=f"{rng.randrange(20_000):032x}",
            ),
            cheap=replace(cheap, text=answer),
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
