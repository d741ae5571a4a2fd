"""Recorded answers of real models as tiers: a cascade runs on them as it does on models, and no model is called.

The file format is in docs/data.md, "Recorded answers": one JSON object per line, one line per (query, model).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from cascade.cost import PriceTable
from cascade.errors import InputError, TierError
from cascade.tiers import Failure
from cascade.trace import Answer, Query, TokenConfidence
from cascade.traffic import RejectedRow

CHARACTERS_PER_TOKEN = 4
"""Where no token count was recorded; about right for English text, too high a divisor for code and digits."""
_START = datetime(2000, 1, 1, tzinfo=UTC)  # queries without a time keep the file's order


class Usage(StrEnum):
    """Where an answer's token counts come from."""

    RECORDED = "recorded"
    CHARACTERS = "estimated from characters"
    ASSUMED = "assumed"
    """Neither counts nor text were kept; the record's maker put a typical length in."""


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """One model's answer to one query, with what the record says of its worth."""

    answer: Answer
    grade: float | None
    """Share of the answer that is right, 0..1; None where the record has no label."""
    usd: float | None
    """What the provider charged, where the record says."""
    usage: Usage
    has_text: bool
    """False where the record kept a label but no text; `answer.text` is then empty."""


@dataclass(frozen=True, slots=True)
class RecordedTier:
    """A recorded model as a cheap tier (`answer`) or as a flagship (`iter_outcomes`)."""

    model: str
    answers: Mapping[str, RecordedAnswer] = field(repr=False)
    """By query id."""

    def answer(self, queries: Sequence[Query], *, progress: bool = True) -> list[Answer]:
        """The recorded answers, in order. Raises TierError naming the first query that has none."""
        missing = [query.id for query in queries if query.id not in self.answers]
        if missing:
            raise TierError(f"{self._missing(missing[0])} ({len(missing)} of {len(queries)} queries have none)")
        return [self.answers[query.id].answer for query in queries]

    def iter_outcomes(self, queries: Iterable[Query]) -> Iterator[tuple[Query, Answer | Failure]]:
        """Recorded answers as they are asked for; a query without one fails, unbilled, and stops no other."""
        for query in queries:
            found = self.answers.get(query.id)
            yield query, Failure(self._missing(query.id), maybe_billed=False) if found is None else found.answer

    def _missing(self, query_id: str) -> str:
        return f"no answer of {self.model} is recorded for query {query_id!r}: leave the query out or record it"


@dataclass(frozen=True, slots=True)
class Recording:
    """What a file of recorded answers held."""

    name: str
    queries: tuple[Query, ...]
    """In order of time; in order of the file where the rows carry no time."""
    timed: bool
    """Whether every query carries a time of its own."""
    answers: Mapping[str, Mapping[str, RecordedAnswer]] = field(repr=False)
    """By model, then by query id."""
    rejected: tuple[RejectedRow, ...] = ()

    @property
    def models(self) -> list[str]:
        """Recorded models, by name."""
        return sorted(self.answers)

    def tier(self, model: str) -> RecordedTier:
        """A model of the record as a tier. Raises InputError that lists the recorded models for an unknown one."""
        if model not in self.answers:
            known = ", ".join(self.models) or "none"
            raise InputError(f"no answers of model {model!r} in {self.name}; use one of those recorded: {known}")
        return RecordedTier(model, self.answers[model])

    def shared(self, models: Sequence[str]) -> list[Query]:
        """The queries that all these models answered, in order."""
        tiers = [self.tier(model).answers for model in models]
        return [query for query in self.queries if all(query.id in answers for answers in tiers)]

    def usage(self, models: Sequence[str]) -> tuple[Usage, ...]:
        """Where the token counts of these models come from: each kind once."""
        found = {row.usage for model in models for row in self.tier(model).answers.values()}
        return tuple(kind for kind in Usage if kind in found)


def read_recording(path: Path) -> Recording:
    """Read one JSONL file, or all *.jsonl files of a folder, as one record.

    A row that cannot be used is kept in `rejected` with its reason. Raises InputError when nothing can be read, no row
    is usable, or two rows give the same model different answers to the same query: which one to believe is the
    user's to say.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"the folder {path} holds no *.jsonl file of recorded answers")
    lines: list[tuple[int, bytes]] = []
    for file in files:
        try:
            lines += list(enumerate(file.read_bytes().split(b"\n"), start=1))
        except OSError as error:
            raise InputError(f"cannot read the recorded answers {file}: {error.strerror}; check the path") from error
    rows: list[tuple[int, dict[str, Any]]] = []
    rejected: list[RejectedRow] = []
    for number, raw in lines:
        if raw.strip():
            try:
                rows.append((number, _parse(raw)))
            except ValueError as error:
                rejected.append(RejectedRow(number, str(error), raw.decode("utf-8", "replace").strip()))
    return _build(path.name, rows, rejected)


def recording_from_rows(name: str, rows: Iterable[Mapping[str, Any]]) -> Recording:
    """A record from rows in the file's format. Raises InputError naming the first row that cannot be used."""
    checked = []
    for number, row in enumerate(rows, start=1):
        try:
            checked.append((number, _checked(dict(row))))
        except ValueError as error:
            raise InputError(f"row {number} of {name}: {error}") from error
    return _build(name, checked, [])


def price_usd(row: RecordedAnswer, prices: PriceTable) -> float | None:
    """What an answer cost: as recorded, else from its token counts; None when neither is known."""
    return row.usd if row.usd is not None else prices.cost_usd(row.answer)


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(row, dict):
        raise ValueError(f"not a JSON object but {type(row).__name__}")  # noqa: TRY004 - one error kind per row
    return _checked(row)


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    """The row, with `grade` for `correct`; raises ValueError with the reason."""
    for key in ("id", "model"):
        if not isinstance(row.get(key), str) or not row[key]:
            raise ValueError(f"missing, empty or not text: {key}")
    if "text" not in row or not isinstance(row["text"], str | None):
        raise ValueError('no text: give the answer as "text", or "text": null where only its label was kept')
    if "correct" in row:
        row = {**row, "grade": float(bool(row["correct"]))}
    _check_number(row, "grade", 1.0)
    for key in ("tokens_in", "tokens_out", "usd", "latency_s"):
        _check_number(row, key, math.inf)
    for key in ("tokens_in", "tokens_out"):
        if isinstance(row.get(key), float) and not row[key].is_integer():
            raise ValueError(f"{key} is {row[key]}, not a whole number")
    if row["text"] is None and row.get("grade") is None:
        raise ValueError("neither a text nor a grade: nothing was recorded")
    return row


def _check_number(row: Mapping[str, Any], key: str, top: float) -> None:
    value = row.get(key)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= top:
        limit = f"from 0 to {top:g}" if math.isfinite(top) else "of 0 or more"
        raise ValueError(f"{key} is {value!r}; use a number {limit}, or leave it out where unknown")


def _build(name: str, rows: Sequence[tuple[int, dict[str, Any]]], rejected: list[RejectedRow]) -> Recording:
    queries = _queries(rows, rejected)
    answers: dict[str, dict[str, RecordedAnswer]] = {}
    first: dict[tuple[str, str], int] = {}
    for number, row in rows:
        query = queries.get(row["id"])
        if query is None:
            continue
        try:
            answer = _answer(row, query[0])
        except (TypeError, ValueError) as error:
            rejected.append(RejectedRow(number, f"confidence or usage cannot be read: {error}", json.dumps(row)))
            continue
        known = answers.setdefault(row["model"], {}).setdefault(row["id"], answer)
        line = first.setdefault((row["id"], row["model"]), number)
        if known != answer:
            raise InputError(
                f"{name} holds two different answers of {row['model']} to query {row['id']!r}, on lines {line} and "
                f"{number}: keep one of them"
            )
    if not answers:
        reason = f"; the first of {len(rejected)} rejected rows: {rejected[0].reason}" if rejected else ""
        raise InputError(f"{name} holds no usable recorded answer{reason}")
    timed = all(has_time for _, has_time in queries.values())
    ordered = [query for query, _ in queries.values()]
    if timed:
        ordered.sort(key=lambda query: (query.time, query.id))
    return Recording(name, tuple(ordered), timed, answers, tuple(rejected))


def _queries(rows: Sequence[tuple[int, dict[str, Any]]], rejected: list[RejectedRow]) -> dict[str, tuple[Query, bool]]:
    """(query, carries a time) by id, from the first row of each id that holds the question."""
    found: dict[str, tuple[Query, bool]] = {}
    for _, row in rows:
        if row["id"] not in found and (row.get("query") or row.get("messages")):
            messages = row.get("messages") or [{"role": "user", "content": str(row["query"])}]
            time = _time(row.get("time"))
            found[row["id"]] = (
                Query(
                    id=row["id"],
                    time=time or _START + timedelta(seconds=len(found)),
                    route=str(row.get("route") or "default"),
                    messages=tuple({"role": str(m["role"]), "content": str(m["content"])} for m in messages),
                    schema=row.get("schema"),
                    reference=row.get("reference"),
                ),
                time is not None,
            )
    for number, row in rows:
        if row["id"] not in found:
            rejected.append(
                RejectedRow(number, f"no row of {row['id']!r} holds its query or messages", json.dumps(row))
            )
    return found


def _time(value: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def _answer(row: Mapping[str, Any], query: Query) -> RecordedAnswer:
    text = row["text"]
    tokens_in, tokens_out = row.get("tokens_in"), row.get("tokens_out")
    usage = Usage(row.get("usage", Usage.RECORDED))
    if tokens_in is None:
        tokens_in, usage = estimate_tokens(sum(len(m["content"]) for m in query.messages)), Usage.CHARACTERS
    if tokens_out is None and text is not None:
        tokens_out, usage = estimate_tokens(len(text)), Usage.CHARACTERS
    confidence = row.get("confidence")
    answer = Answer(
        text=text or "",
        model=row["model"],
        tokens_in=int(tokens_in),
        tokens_out=None if tokens_out is None else int(tokens_out),
        latency_s=row.get("latency_s"),
        finish_reason=str(row.get("finish_reason") or "stop"),
        confidence=TokenConfidence(**confidence) if confidence else None,
    )
    return RecordedAnswer(answer, row.get("grade"), row.get("usd"), usage, text is not None)


def estimate_tokens(n_characters: int) -> int:
    """Tokens of a text of so many characters, at four characters a token; never 0, a request has some."""
    return max(1, math.ceil(n_characters / CHARACTERS_PER_TOKEN))
