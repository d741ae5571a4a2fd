"""A run's window in three parts, and its traces copied from their store into the run's folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np

from cascade.errors import InputError, StoreError
from cascade.store import TraceLine
from flows.config import WindowConfig
from flows.context import RunContext
from flows.rundir import write_lines

MIN_PART = 50  # traces in each part of the window; below it no interval means anything
T = TypeVar("T")


def split_window(
    items: Sequence[T], window: WindowConfig, since: datetime, until: datetime, seed: int
) -> dict[str, list[T]]:
    """Traces or their ids, in order of time, as pool, calibration and heldout; of the last two no more than
    `max_labelled`. Raises InputError where a part is too small."""
    n = len(items)
    first, second = round(n * window.pool), round(n * (window.pool + window.calibration))
    parts = {"pool": items[:first], "calibration": items[first:second], "heldout": items[second:]}
    smallest = min(len(part) for part in parts.values())
    if smallest < MIN_PART:
        raise InputError(
            f"{n} traces from {since:%Y-%m-%d} to {until:%Y-%m-%d} leave a part of {smallest};"
            f" at least {MIN_PART} are needed in each: serve more traffic or widen window.days"
        )
    most = {"calibration": window.max_labelled, "heldout": window.max_labelled}
    return {name: _sampled(part, most.get(name), seed) for name, part in parts.items()}


def _sampled(items: Sequence[T], most: int | None, seed: int) -> list[T]:
    """A uniform sample of `most`, in the order in which they were; all where there are no more."""
    if most is None or len(items) <= most:
        return list(items)
    chosen = np.sort(np.random.default_rng(seed).choice(len(items), most, replace=False))
    return [items[i] for i in chosen.tolist()]


def copy_traces(ctx: RunContext, folder: Path, parts: Mapping[str, Sequence[str]]) -> int:
    """Write the traces of these ids, which are in their store's order, as <part>.jsonl. Returns how many are escalated.

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
        for part, ids in parts.items():
            write_lines(folder / f"{part}.jsonl", texts(_of(stored, ids)))
    return n_escalated


def _of(lines: Iterable[TraceLine], ids: Sequence[str]) -> Iterator[TraceLine]:
    """Lines of exactly these traces, and no more lines read: what came into the window since they were listed waits for
    the next run."""
    missing = set(ids)
    for line in lines if missing else ():
        if line.id in missing:
            missing.discard(line.id)
            yield line
        if not missing:
            return
    if missing:
        raise StoreError(
            f"{len(missing)} of the window's traces were deleted while they were copied: start the run again"
        )
