"""What the loopback flagship knows and what it has sold: the answer book and the ledger of billed answers."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field

_TOKEN = re.compile(r"\w+|[^\w\s]")


class FlagshipOptions(BaseModel):
    """How the loopback flagship behaves; rates are shares of requests in 0..1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[str, ...] = ("flagship-large",)
    fallback: str = '{"intent":"unknown"}'
    """Answer to a question that is not in the book."""
    error_rate: float = Field(0.0, ge=0, le=1)
    """Share of questions answered wrongly (with another question's answer): fixed by seed and text, so stable."""
    failure_rate: float = Field(0.0, ge=0, le=1)
    """Share of requests that end in HTTP 500 or 503; a retry may succeed."""
    latency_s: float = Field(0.0, ge=0)
    rate_limit: float | None = Field(None, gt=0)
    """Requests per second before HTTP 429; None for no limit."""
    api_key: str | None = None
    judge_error_rate: float = Field(0.0, ge=0, le=1)
    """Share of judged answers that get the opposite verdict: fixed by seed and text."""
    judge_prose_rate: float = Field(0.0, ge=0, le=1)
    """Share of judged answers that get prose instead of a verdict."""
    seed: int = 0


@dataclass(frozen=True)
class BookAnswer:
    """One answer with whether it was made wrong on purpose."""

    text: str
    injected_error: bool


def count_tokens(text: str) -> int:
    """Tokens as the flagship bills them: words and punctuation marks."""
    return len(_TOKEN.findall(text))


def split_tokens(text: str) -> list[str]:
    """Pieces whose concatenation is `text`."""
    return re.findall(r"\w+|\s+|[^\w\s]", text)


class AnswerBook:
    """Question -> gold answer, with deterministic injected errors."""

    def __init__(self, answers: dict[str, str], options: FlagshipOptions) -> None:
        self._answers = answers
        self._ordered = sorted(set(answers.values()))
        self._options = options

    @classmethod
    def load(cls, path: Path, options: FlagshipOptions) -> AnswerBook:
        """Read JSONL rows {"content", "answer"}; raises ValueError that names the bad line."""
        answers: dict[str, str] = {}
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    answers[str(row["content"])] = str(row["answer"])
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"{path}, line {number}: not a row with content and answer") from error
        return cls(answers, options)

    def gold(self, content: str) -> str | None:
        """The right answer; None for an unknown question."""
        return self._answers.get(content)

    def answer(self, content: str) -> BookAnswer:
        """The gold answer, another one when the error rate says so, or the fallback for an unknown question."""
        gold = self._answers.get(content)
        if gold is None:
            return BookAnswer(self._options.fallback, False)
        digest = hashlib.sha256(f"{self._options.seed}:{content}".encode()).digest()
        if int.from_bytes(digest[:8], "big") / 2**64 >= self._options.error_rate or len(self._ordered) < 2:
            return BookAnswer(gold, False)
        at = int.from_bytes(digest[8:16], "big") % len(self._ordered)
        wrong = self._ordered[at] if self._ordered[at] != gold else self._ordered[at - 1]
        return BookAnswer(wrong, True)


@dataclass(frozen=True)
class Sale:
    """One billed answer, as it stands in the ledger."""

    model: str
    content: str
    answer: str
    prompt_tokens: int
    completion_tokens: int
    injected_error: bool
    idempotency_key: str | None
    request_digest: str


@dataclass
class Counts:
    """What the server has done since it started."""

    requests: int = 0
    billed_answers: int = 0
    replayed_answers: int = 0
    injected_errors: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    per_model: dict[str, int] = field(default_factory=dict)


class Ledger:
    """Billed answers: counted, kept by idempotency key, and appended to a file that outlives the process."""

    def __init__(self, path: Path | None) -> None:
        self.counts = Counts()
        self._questions: set[str] = set()
        self._by_key: dict[str, Sale] = {}
        self._file: IO[str] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._recall(_complete_lines(path))
            self._file = path.open("a", encoding="utf-8")

    def find(self, key: str | None) -> Sale | None:
        """The sale of an idempotency key, from this process or from the ledger file of an earlier one."""
        return self._by_key.get(key) if key is not None else None

    def bill(self, sale: Sale) -> None:
        """Record a sale and flush it to the file before anybody sees the answer."""
        counts = self.counts
        counts.billed_answers += 1
        counts.injected_errors += sale.injected_error
        counts.per_model[sale.model] = counts.per_model.get(sale.model, 0) + 1
        self._questions.add(sale.content)
        if sale.idempotency_key is not None:
            self._by_key[sale.idempotency_key] = sale
        if self._file is not None:
            self._file.write(json.dumps({"time": datetime.now(UTC).isoformat(), **sale.__dict__}) + "\n")
            self._file.flush()

    def refuse(self, status: int) -> None:
        """Count a refused request by its HTTP status."""
        self.counts.refused[str(status)] = self.counts.refused.get(str(status), 0) + 1

    def stats(self) -> dict[str, Any]:
        """Counters of this process, as GET /stats shows them."""
        return {**self.counts.__dict__, "distinct_questions": len(self._questions)}

    def _recall(self, lines: Iterable[str]) -> None:
        for line in lines:
            row = json.loads(line)
            row.pop("time")
            sale = Sale(**row)
            if sale.idempotency_key is not None:
                self._by_key[sale.idempotency_key] = sale


def _complete_lines(path: Path) -> list[str]:
    """Whole lines of an earlier ledger; a last line cut off by a kill is removed, its answer was never delivered."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        os.truncate(path, len(whole.encode()))
    return whole.splitlines()
