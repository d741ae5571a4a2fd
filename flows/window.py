"""The traces of a run's window, copied from their store into the run's folder in three parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from cascade.errors import InputError, StoreError
from cascade.store import TraceLine
from flows.context import RunContext
from flows.rundir import write_lines

MIN_PART = 50  # traces in each part of the window; below it no interval means anything


def part_sizes(ctx: RunContext, n: int) -> dict[str, int]:
    """How many of `n` traces are pool, calibration and held-out, in order of time. Raises InputError for too few."""
    window = ctx.config.window
    first, second = round(n * window.pool), round(n * (window.pool + window.calibration))
    sizes = {"pool": first, "calibration": second - first, "heldout": n - second}
    smallest = min(sizes.values())
    if smallest < MIN_PART:
        raise InputError(
            f"{n} traces from {ctx.since:%Y-%m-%d} to {ctx.until:%Y-%m-%d} leave a part of {smallest};"
            f" at least {MIN_PART} are needed in each: serve more traffic or widen window.days"
        )
    return sizes


def copy_traces(ctx: RunContext, folder: Path, ids: Sequence[str], sizes: Mapping[str, int]) -> int:
    """Write the traces of `ids`, which are in their store's order, as <part>.jsonl. Returns how many are escalated.

    Each is copied as it is stored, so that no more than a few thousand are in memory. Raises StoreError where one of
    them is there no longer.
    """
    n_escalated = 0

    def texts(lines: Iterator[TraceLine]) -> Iterator[str]:
        nonlocal n_escalated
        for line in lines:
            n_escalated += line.escalated
            yield line.text

    with closing(ctx.state.traces.lines(ctx.since, ctx.until)) as stored:
        listed = _of(stored, ids)
        for part, size in sizes.items():
            write_lines(folder / f"{part}.jsonl", texts(islice(listed, size)))
    return n_escalated


def _of(lines: Iterable[TraceLine], ids: Sequence[str]) -> Iterator[TraceLine]:
    """Lines of exactly these traces: what came into the window since they were listed waits for the next run."""
    missing = set(ids)
    for line in lines:
        if line.id in missing:
            missing.discard(line.id)
            yield line
    if missing:
        raise StoreError(
            f"{len(missing)} of the window's {len(ids)} traces were deleted while they were copied: start the run again"
        )
