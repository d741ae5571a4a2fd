"""Traces as a lake: Parquet files by day, on a disk or in an object store (fsspec), without a server.

    day=2026-11-02/<random>.parquet      traces of one UTC day; never changed once written
    _log/<number>.json                   commits (`cascade.lake_log`): which files count
    _watermarks/<digest>.json            how far a log has been read

A file counts only when a commit names it, so a writer that dies leaves nothing behind that a reader would see.

A trace is kept once by its id: each row carries a 64-bit hash of its id, a writer holds all hashes (8 bytes a trace)
and reads the ids behind those that meet.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from cascade.errors import StoreError
from cascade.lake_ids import IdIndex, hash_id
from cascade.lake_log import ATTEMPTS, Change, CommitLog, LakeFile
from cascade.store import (
    RECORDS,
    VALUES,
    Span,
    TraceLine,
    from_microseconds,
    from_rows,
    many_objects,
    microseconds,
    to_json,
    to_lines,
    to_row,
)
from cascade.trace import Query, Trace, query_from_dict

if TYPE_CHECKING:
    import pyarrow as pa

COMPACT_AT = 24
"""Files of one day beyond which a writer puts them together."""
ROW_GROUP = 8192
PIECE = 20_000
"""Traces that are copied at a time."""
_COLUMNS = ("query_id", "id_hash", "time_us", "route", "version", "user_key", *VALUES, *RECORDS)
_T = TypeVar("_T")


class LakeTraceStore:
    """Traces in Parquet files below `root`, a folder or an fsspec URL such as s3://bucket/traces.

    One object serves one thread at a time; any number of objects and processes may use one lake.

    Raises ConfigError where the place cannot be used, StoreError where its files are damaged.
    """

    def __init__(self, root: str | Path, piece: int = PIECE) -> None:
        self._log = CommitLog(root)
        self._piece = piece
        self.fs, self.root = self._log.fs, self._log.root
        self._ids = IdIndex()

    def add(self, traces: Sequence[Trace]) -> int:
        """Store all of `traces` or none; ids already there stay as they are. Returns how many were new."""
        rows = {trace.query.id: to_row(trace) for trace in reversed(traces)}
        written: tuple[frozenset[str], tuple[LakeFile, ...]] = (frozenset(), ())

        def change() -> tuple[Change | None, int]:
            nonlocal written
            new = rows.keys() - self._known(rows.keys())
            if new != written[0]:  # else the files of the attempt before still hold
                written = (frozenset(new), self._write(rows[i] for i in new))
            return (Change(written[1]) if new else None), len(new)

        n = self._log.commit(change)
        crowded = [day for day, files in self._by_day().items() if len(files) >= COMPACT_AT]
        if crowded:
            self.compact(crowded)
        return n

    def ids(self) -> set[str]:
        """Query ids of all stored traces."""
        return set(self._read(lambda: self._table(self._live(None, None), ["query_id"]))["query_id"].to_pylist())

    def known(self, ids: Collection[str]) -> set[str]:
        """Which of `ids` have a trace."""
        self._log.refresh()
        return self._read(lambda: self._known(ids))

    def between(self, start: datetime | None, end: datetime | None) -> list[Trace]:
        """Traces with start <= time < end, in order of time, then id; None leaves a side open."""
        return self._traces(start, end, escalated=False)

    def escalated(self, start: datetime | None, end: datetime | None) -> list[Trace]:
        """As `between`, the escalated ones alone: they lie together in every file, the others are not read."""
        return self._traces(start, end, escalated=True)

    def ids_between(self, start: datetime | None, end: datetime | None) -> list[str]:
        """Query ids of `between`, in its order; no other column is read but the times."""
        return [i for piece in self._pieces(start, end) for i in self._ordered(*piece, ["query_id"])[0]]

    def lines(self, start: datetime | None, end: datetime | None) -> Generator[TraceLine, None, None]:
        """As `between`, one by one and unparsed. What comes in or goes meanwhile may be missing or not."""
        for piece in self._pieces(start, end):
            yield from to_lines(self._ordered(*piece, ["query_id", "version", *VALUES, *RECORDS]))

    def span(self) -> Span | None:
        """First and last time, from the log; None when there are no traces."""
        self._log.refresh()
        files = self._log.files.values()
        if not files:
            return None
        return Span(from_microseconds(min(f.first_us for f in files)), from_microseconds(max(f.last_us for f in files)))

    def count(self) -> int:
        """Number of stored traces, from the log."""
        self._log.refresh()
        return sum(file.n for file in self._log.files.values())

    def files(self) -> list[str]:
        """Paths of the files that count, for other tools to read (DuckDB, Spark): oldest first."""
        self._log.refresh()
        return [f"{self.root}/{file.path}" for file in self._live(None, None)]

    def queries(self, users: Collection[str] | None, before: datetime | None) -> list[Query]:
        """Queries of these users (None: of anybody) from before a time (None: of any time), in order of time."""
        import pyarrow as pa
        import pyarrow.compute as pc

        def read() -> list[Query]:
            condition = _window(None, before)
            if users is not None:
                among = pc.field("user_key").isin(pa.array(sorted(users), pa.string()))
                condition = among if condition is None else condition & among
            table = self._table(self._live(None, before), ["time_us", "query_id", "query"], condition)
            ordered = table.sort_by([("time_us", "ascending"), ("query_id", "ascending")])
            return [query_from_dict(json.loads(text)) for text in ordered["query"].to_pylist()]

        return self._read(read)

    def remove(self, ids: Collection[str]) -> int:
        """Delete traces for good: all of `ids` or none. Returns how many were there.

        Every file with one of them is written anew without it; dead writers' old files go, too.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = pc.field("query_id").isin(pa.array(sorted(set(ids)), pa.string()))

        def change() -> tuple[Change | None, int]:
            gone, kept = [], []
            n = 0
            for file in self._live(None, None) if ids else ():
                if not self._table([file], ["query_id"], wanted).num_rows:
                    continue
                rest = self._table([file], _COLUMNS, ~wanted)
                gone.append(file.path)
                n += file.n - rest.num_rows
                kept += [self._write_table(rest, file.day)] if rest.num_rows else []
            return (Change(tuple(kept), tuple(gone)) if gone else None), n

        n = self._log.commit(change)
        self._log.sweep()
        return n

    def compact(self, days: Collection[str] | None = None) -> int:
        """Put a day's files together (all days by default); also deletes dead writers' files. Returns files gone."""

        def change() -> tuple[Change | None, int]:
            chosen = {d: f for d, f in self._by_day().items() if len(f) > 1 and (days is None or d in days)}
            merged = tuple(self._write_table(self._table(files, _COLUMNS), day) for day, files in chosen.items())
            gone = tuple(file.path for files in chosen.values() for file in files)
            return (Change(merged, gone) if gone else None), len(gone) - len(merged)

        n = self._log.commit(change)
        if days is None:
            self._log.sweep()
        return n

    def watermark(self, source: str) -> dict[str, Any] | None:
        """What `set_watermark` kept for a source."""
        try:
            return dict(json.loads(self.fs.cat_file(self._watermark_path(source)))["value"])
        except FileNotFoundError:
            return None

    def set_watermark(self, source: str, value: Mapping[str, Any]) -> None:
        """Keep how far a source has been read."""
        path = self._watermark_path(source)
        self.fs.makedirs(f"{self.root}/_watermarks", exist_ok=True)
        temporary = f"{path}.{secrets.token_hex(4)}"
        self.fs.pipe_file(temporary, json.dumps({"source": source, "value": dict(value)}).encode())
        self.fs.mv(temporary, path)

    def close(self) -> None:
        """Nothing is held open."""

    # Reading

    def _traces(self, start: datetime | None, end: datetime | None, *, escalated: bool) -> list[Trace]:
        import pyarrow.compute as pc

        def read() -> list[Trace]:
            condition = _window(start, end)
            if escalated:
                condition = pc.field("escalated") if condition is None else condition & pc.field("escalated")
            columns = ["time_us", "query_id", "version", *VALUES, *RECORDS]
            found: list[tuple[int, str, Trace]] = []
            for batch in self._batches(self._live(start, end), columns, condition):
                times, ids, *others = (column.to_pylist() for column in batch.columns)
                found += zip(times, ids, from_rows(others), strict=True)
            found.sort(key=itemgetter(0, 1))
            return [trace for _, _, trace in found]

        with many_objects():
            return self._read(read)

    def _pieces(self, start: datetime | None, end: datetime | None) -> list[tuple[datetime, datetime]]:
        """The window as half-open spans of time, in order, of about as many traces each as are copied at a time."""
        self._log.refresh()
        spans = []
        for files in self._by_day(self._live(start, end)).values():
            first, last = min(f.first_us for f in files), max(f.last_us for f in files) + 1
            n = 1 + sum(f.n for f in files) // self._piece
            cuts = [first + (last - first) * i // n for i in range(n + 1)]
            spans += list(pairwise(cuts))
        first_us = None if start is None else microseconds(start)
        last_us = None if end is None else microseconds(end)
        clipped = [
            (a if first_us is None else max(a, first_us), b if last_us is None else min(b, last_us)) for a, b in spans
        ]
        return [(from_microseconds(a), from_microseconds(b)) for a, b in clipped if a < b]

    def _ordered(self, start: datetime, end: datetime, columns: Sequence[str]) -> list[list[Any]]:
        """Columns of a window's rows, in order of time, then id."""

        def read() -> list[list[Any]]:
            wanted = list(dict.fromkeys(["time_us", "query_id", *columns]))
            table = self._table(self._live(start, end), wanted, _window(start, end))
            ordered = table.sort_by([("time_us", "ascending"), ("query_id", "ascending")])
            return [ordered[name].to_pylist() for name in columns]

        return self._read(read)

    def _read(self, body: Callable[[], _T]) -> _T:
        """Read what the newest commit names; once more when a file went away meanwhile (it was compacted)."""
        for _ in range(ATTEMPTS):
            self._log.refresh()
            try:
                return body()
            except FileNotFoundError as error:
                missing = error
        raise StoreError(f"the lake {self.root} lacks a file that its log names: {missing}; restore it from a backup")

    def _batches(self, files: Sequence[LakeFile], columns: Sequence[str], condition: Any = None) -> Iterable[Any]:
        import pyarrow.dataset as ds

        if not files:
            return
        paths = [f"{self.root}/{file.path}" for file in files]
        data = ds.dataset(paths, schema=_schema(), format="parquet", filesystem=self.fs)
        yield from data.to_batches(
            columns=list(columns), filter=condition, batch_size=ROW_GROUP, batch_readahead=1, fragment_readahead=1
        )

    def _table(self, files: Sequence[LakeFile], columns: Sequence[str], condition: Any = None) -> pa.Table:
        import pyarrow as pa

        schema = pa.schema([_schema().field(name) for name in columns])
        return pa.Table.from_batches(list(self._batches(files, columns, condition)), schema)

    def _live(self, start: datetime | None, end: datetime | None) -> list[LakeFile]:
        first = None if start is None else microseconds(start)
        last = None if end is None else microseconds(end)
        found = [
            file
            for file in self._log.files.values()
            if (first is None or file.last_us >= first) and (last is None or file.first_us < last)
        ]
        return sorted(found, key=lambda file: (file.first_us, file.path))

    def _by_day(self, files: Iterable[LakeFile] | None = None) -> dict[str, list[LakeFile]]:
        """Live files (all by default) by day, in order of time."""
        days: dict[str, list[LakeFile]] = {}
        for file in self._live(None, None) if files is None else files:
            days.setdefault(file.day, []).append(file)
        return days

    def _known(self, ids: Collection[str]) -> set[str]:
        import pyarrow.compute as pc

        by_hash = {hash_id(i): i for i in ids}
        self._ids.follow(self._log.files, lambda files: self._table(files, ["id_hash"])["id_hash"].to_numpy())
        met = self._ids.among(np.fromiter(by_hash, np.uint64, len(by_hash)))
        if not len(met):
            return set()
        condition = pc.field("id_hash").isin(met)
        stored = self._table(self._live(None, None), ["query_id"], condition)["query_id"].to_pylist()
        return set(stored) & set(ids)

    # Writing

    def _write(self, rows: Iterable[dict[str, Any]]) -> tuple[LakeFile, ...]:
        import pyarrow as pa

        days: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            days.setdefault(f"day={from_microseconds(row['time_us']):%Y-%m-%d}", []).append(_stored(row))
        return tuple(
            self._write_table(pa.Table.from_pylist(part, _schema()), day) for day, part in sorted(days.items())
        )

    def _write_table(self, table: pa.Table, day: str) -> LakeFile:
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        # Escalations lie together, so that reading them alone skips whole row groups.
        table = table.sort_by([("escalated", "ascending"), ("time_us", "ascending"), ("query_id", "ascending")])
        path = f"{day}/{secrets.token_hex(8)}.parquet"
        self.fs.makedirs(f"{self.root}/{day}", exist_ok=True)
        with self.fs.open(f"{self.root}/{path}", "wb") as file:
            pq.write_table(table, file, compression="zstd", row_group_size=ROW_GROUP, write_statistics=True)
            if self._log.local:
                file.flush()
                os.fsync(file.fileno())
        bounds = pc.min_max(table["time_us"])
        return LakeFile(path, table.num_rows, bounds["min"].as_py(), bounds["max"].as_py())

    def _watermark_path(self, source: str) -> str:
        return f"{self.root}/_watermarks/{sha256(source.encode()).hexdigest()[:32]}.json"


def _stored(row: dict[str, Any]) -> dict[str, Any]:
    records = {name: None if row[name] is None else to_json(row[name]) for name in RECORDS}
    return {**row, **records, "id_hash": hash_id(row["query_id"])}


def _schema() -> pa.Schema:
    import pyarrow as pa

    kinds = {"id_hash": pa.uint64(), "time_us": pa.int64(), "escalated": pa.bool_(), "audited": pa.bool_()}
    kinds |= dict.fromkeys(("audit_propensity", "cost_usd", "audit_cost_usd"), pa.float64())
    return pa.schema([pa.field(name, kinds.get(name, pa.string())) for name in _COLUMNS])


def _window(start: datetime | None, end: datetime | None) -> Any:
    import pyarrow.compute as pc

    condition = None if start is None else pc.field("time_us") >= microseconds(start)
    if end is None:
        return condition
    before = pc.field("time_us") < microseconds(end)
    return before if condition is None else condition & before
