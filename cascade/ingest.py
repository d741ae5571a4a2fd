"""Other cascades' logs to traces.

openai: one JSON object per line, the models' replies in the form of OpenAI chat completions.

    {"id": "q1", "time": "2026-11-02T09:15:00Z", "messages": [...], "escalated": true,
     "cheap": {chat completion}, "flagship": {chat completion} or null}

Optional: route, user, schema, reference, version (of the cheap model), audit_propensity.

litellm, langfuse: one model call per line (or a JSON list of them), see `cascade.generations`; `cascade.pairs` puts the
calls of one query together.

A row that cannot be used goes to the rejected-rows file with its reason. How far a file was read is kept in the store,
so that a log that has grown is read on from there, and one that has not is not read at all.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from cascade.client import answer_from_completion
from cascade.cost import PriceTable
from cascade.errors import ConfigError, InputError
from cascade.generations import Other, from_langfuse, from_litellm
from cascade.pairs import FROM_A_LOG, CascadeModels, Group, Pairs, to_trace
from cascade.rows import Line, check_sound, parse_line, read_lines
from cascade.store import TraceStore
from cascade.trace import Answer, Outcome, Trace, Verdict
from cascade.traffic import query_of
from cascade.watermark import Watermark, mark_behind, resume, source_name

BATCH = 1000
LogFormat = Literal["openai", "litellm", "langfuse"]
_BAD_ROW = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What a row of wrong types can raise in a reader of right ones."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """What one call did with a log."""

    n_new: int
    n_known: int
    """Queries that had a trace already; they are left as they are, so a log may be loaded again."""
    n_rejected: int
    rejected_path: Path | None
    n_other: dict[str, int] = field(default_factory=dict)
    """Rows that are no calls of the two models, by what they are; they are no faults, and not kept."""
    n_waiting: int = 0
    """Queries left for the next reading, because their other call may still come."""
    resumed_at: int = 0
    """Byte at which reading began."""


def ingest_log(
    path: Path,
    store: TraceStore,
    prices: PriceTable,
    rejected_path: Path,
    log_format: LogFormat = "openai",
    models: CascadeModels | None = None,
    *,
    complete: bool = False,
    progress: bool = False,
) -> Ingested:
    """Store a log's traces. `models` is needed for the formats of single calls; `complete` takes what still waits.

    Raises InputError when the file cannot be read, ConfigError for a model without a price: what was read before is
    stored, and the next call goes on from there.
    """
    if log_format != "openai" and models is None:
        raise ConfigError(f"the format {log_format} needs the names of the cheap model and of the flagship")
    reader = _Reader(log_format, models, prices)
    try:
        return _Ingest(path, store, rejected_path, reader).run(complete=complete, progress=progress)
    except OSError as error:
        raise InputError(f"cannot read the log {path}: {error.strerror}; check the path") from error


@dataclass(frozen=True, slots=True)
class _Rejection:
    line: Line
    reason: str


class _Reader:
    """Lines of one format to traces and rejections."""

    def __init__(self, log_format: LogFormat, models: CascadeModels | None, prices: PriceTable) -> None:
        self.format, self.models, self.prices = log_format, models, prices
        self.pairs = None if models is None else Pairs(models)
        self.other: Counter[str] = Counter()

    @property
    def waiting(self) -> list[Line]:
        """Lines of queries whose other call may still come."""
        return [] if self.pairs is None else self.pairs.waiting

    @property
    def n_waiting(self) -> int:
        """Such queries."""
        return 0 if self.pairs is None else self.pairs.n_waiting

    def take(self, line: Line) -> Iterator[Trace | _Rejection]:
        """What one line brings or settles."""
        try:
            row = parse_line(line)
            if self.format == "openai":
                yield _openai_trace(row, self.prices)
                return
            assert self.pairs is not None
            call = from_litellm(row) if self.format == "litellm" else from_langfuse(row)
            settled = list(self.pairs.take(call, line))
        except Other as other:
            self.other[str(other)] += 1
        except _BAD_ROW as error:
            yield _Rejection(line, _reason(error))
        else:
            for group in settled:
                yield from self._trace(group)

    def rest(self) -> Iterator[Trace | _Rejection]:
        """What waits for its other call, taken as it is."""
        if self.pairs is not None:
            for group in self.pairs.rest():
                yield from self._trace(group)

    def _trace(self, group: Group) -> Iterator[Trace | _Rejection]:
        assert self.models is not None
        try:
            yield _checked(to_trace(group, self.models, self.prices))
        except _BAD_ROW as error:
            yield from (_Rejection(line, _reason(error)) for line in group.lines)


class _Ingest:
    """One reading of one file."""

    def __init__(self, path: Path, store: TraceStore, rejected_path: Path, reader: _Reader) -> None:
        self.path, self.store, self.rejected_path, self.reader = path, store, rejected_path, reader
        self.source = source_name(path, reader.format)
        rows = _list_of_rows(path)
        self.is_list = rows is not None
        self.begun = Watermark() if self.is_list else resume(store.watermark(self.source), path)
        self.lines = read_lines(path, self.begun.offset, self.begun.number) if rows is None else _elements(rows)
        self.last: Line | None = None
        self.batch: list[Trace] = []
        self.rejections: list[_Rejection] = []
        self.n_new = self.n_usable = self.n_rejected = 0

    def run(self, *, complete: bool, progress: bool) -> Ingested:
        """Read from where the last reading ended."""
        size, start = self.path.stat().st_size, self.begun.offset
        with tqdm(total=size, initial=start, unit="B", unit_scale=True, disable=not progress, desc="ingest") as bar:
            for line in self.lines:
                if self.begun.wants(line):
                    self._keep(self.reader.take(line))
                self.last = line
                bar.update(min(line.end, size) - bar.n)
                if len(self.batch) + len(self.rejections) >= BATCH:
                    self._flush()
        if complete or self.is_list:
            self._keep(self.reader.rest())
        self._flush()
        return Ingested(
            n_new=self.n_new,
            n_known=self.n_usable - self.n_new,
            n_rejected=self.n_rejected,
            rejected_path=self.rejected_path if self.n_rejected else None,
            n_other=dict(self.reader.other.most_common()),
            n_waiting=self.reader.n_waiting,
            resumed_at=start,
        )

    def _keep(self, found: Iterator[Trace | _Rejection]) -> None:
        for item in found:
            if isinstance(item, Trace):
                self.batch.append(item)
            elif not self.begun.reported(item.line):
                self.rejections.append(item)

    def _flush(self) -> None:
        """Store the batch, then how far it reaches; killed in between, the next reading finds its rows known."""
        self.n_usable += len(self.batch)
        self.n_new += self.store.add(self.batch)
        self._write_rejections()
        self.batch, self.rejections = [], []
        if not self.is_list:
            mark = mark_behind(self.last, self.reader.waiting, self.begun)
            self.store.set_watermark(self.source, mark.to_dict(self.path))

    def _write_rejections(self) -> None:
        if not self.rejections:
            return
        self.rejected_path.parent.mkdir(parents=True, exist_ok=True)
        more = self.n_rejected or self.begun.seen
        with self.rejected_path.open("a" if more else "w", encoding="utf-8") as file:
            for rejection in self.rejections:
                text = rejection.line.raw.decode("utf-8", "replace").strip()
                row = {"line_number": rejection.line.number, "reason": rejection.reason, "text": text}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.n_rejected += len(self.rejections)


def _list_of_rows(path: Path) -> list[Any] | None:
    """The rows of a file that is one JSON list, as downloads and APIs give it; None for a line per row."""
    with path.open("rb") as file:
        if not file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            return None
    try:
        rows = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None  # lines that happen to begin like this; each says what is wrong with it
    return rows if isinstance(rows, list) else None


def _elements(rows: list[Any]) -> Iterator[Line]:
    for number, row in enumerate(rows, start=1):
        raw = json.dumps(row).encode()
        yield Line(number, number, number + 1, raw, len(raw), ended=True)


def _openai_trace(row: dict[str, Any], prices: PriceTable) -> Trace:
    """One row to a trace; raises ValueError with the reason."""
    query = query_of(row)
    if not 2000 <= query.time.year <= 2100:
        raise ValueError(f"time {row['time']!r} is not of this century")
    if not isinstance(row.get("escalated"), bool):
        raise ValueError("escalated is missing or not true or false")  # noqa: TRY004 - one error kind per row
    cheap, flagship = _answer(row, "cheap"), _answer(row, "flagship")
    if cheap is None:
        raise ValueError("cheap is missing: the row needs the cheap tier's completion")
    version = row.get("version") or cheap.model
    if not isinstance(version, str) or "\0" in version:
        raise ValueError(f"version {version!r} is not a name")
    propensity = row.get("audit_propensity") or 0.0
    if isinstance(propensity, bool) or not isinstance(propensity, int | float) or not 0 <= propensity <= 1:
        raise ValueError(f"audit_propensity {propensity!r} is not a probability")
    escalated = row["escalated"]
    cheap_usd = prices.cost_usd(cheap, query.time)
    flagship_usd = prices.cost_usd(flagship, query.time) if flagship else None
    cost = cheap_usd
    if escalated:
        cost = None if cheap_usd is None or flagship_usd is None else cheap_usd + flagship_usd
    return _checked(
        Trace(
            query=query,
            cheap=cheap,
            cheap_version=version,
            verdict=Verdict(Outcome.REJECT if escalated else Outcome.ACCEPT, None, (FROM_A_LOG,)),
            escalated=escalated,
            audited=not escalated and flagship is not None,
            audit_propensity=float(propensity),
            flagship=flagship,
            cost_usd=cost,
            audit_cost_usd=0.0 if escalated or flagship is None else flagship_usd,
        )
    )


def _answer(row: dict[str, Any], key: str) -> Answer | None:
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{key} is {type(value).__name__}, not a chat completion")  # noqa: TRY004
    if not isinstance(value.get("model", ""), str):
        kind = type(value["model"]).__name__
        raise ValueError(f"{key} is not a chat completion: its model is {kind}")  # noqa: TRY004
    try:
        return answer_from_completion(value)
    except _BAD_ROW as error:
        raise ValueError(f"{key} is not a chat completion: {error}") from error


def _checked(trace: Trace) -> Trace:
    """The trace, if every store can keep it; raises ValueError."""
    for name, answer in (("cheap", trace.cheap), ("flagship", trace.flagship)):
        if answer is None:
            continue
        if not isinstance(answer.finish_reason, str):
            raise ValueError(f"{name}'s finish_reason is {type(answer.finish_reason).__name__}, not text")  # noqa: TRY004
        numbers = [] if answer.confidence is None else [answer.confidence.mean_logprob, answer.confidence.min_logprob]
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"{name}'s log-probabilities are not finite")
        check_sound(answer.text)
    return trace


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"wrong types in it ({type(error).__name__}: {error})"
