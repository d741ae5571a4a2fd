"""What an answer comes down to: its JSON "answer" field, its option letter, its last number.

Rules of the public sets: GSM8K's "#### N" (Cobbe et al. 2021, grade_school_math/dataset.py, `extract_answer`),
ZeroEval's JSON "answer" field, MMLU-Pro's "answer is (X)", RouterArena's \\boxed{...}. The recorded labels were made
with these; here they say only whether two answers agree.
"""

from __future__ import annotations

import re
from functools import lru_cache

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
_MARKED = (
    re.compile(r"####\s*([^\n]+)"),
    re.compile(r'"answer"\s*:\s*"((?:[^"\\]|\\.)*)"'),
    re.compile(r'"answer"\s*:\s*([^",}\n][^,}\n]*)'),
    re.compile(r"\\boxed\{+([^{}]*)\}"),
    re.compile(r"answer is:?\s*\(?([A-J])\)?\b"),
    re.compile(r"^A:\s*([^\n]+)", re.MULTILINE),
)


@lru_cache(maxsize=65536)
def final_answer(text: str) -> str | None:
    """The answer in a form in which equal means the same; None where the text comes to none.

    A marked answer counts before an unmarked one, the last mark of a kind before earlier ones; without a mark it is
    the last number.
    """
    for mark in _MARKED:
        found = mark.findall(text)
        if found:
            return _normal(found[-1])
    numbers = _NUMBER.findall(text)
    return _number(numbers[-1]) if numbers else None


def _normal(answer: str) -> str | None:
    answer = answer.strip().strip("\"'`.*").strip()
    numbers = _NUMBER.findall(answer)
    # A number with a unit or a currency is that number; anything longer (code, a list) is compared whole.
    if len(numbers) == 1 and not re.search(r"[\[\](){}'\"=_]", answer):
        return _number(numbers[0])
    return re.sub(r"[\s\"'\\]", "", answer).lower() or None


def _number(text: str) -> str:
    plain = text.replace("$", "").replace(",", "")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain
