"""Does the answer calculate rightly? Every "a * b = c" that it states is worked out again; free, and no model."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cascade.trace import Answer, Query
from cascade.verifiers.score import Score

# Atomic groups and bounded repetitions: there is one way to read a text, so none takes long.
_TERM = r"(?>\({0,3}\s?-?\$?\d[\d,]{0,15}(?:\.\d{1,12})?%?\){0,3})"
_WORDS = r"(?>(?:\s?/?(?![xX]\b)[A-Za-z]{1,20}){0,5})"
_STATED = re.compile(
    rf"({_TERM}{_WORDS}(?:\s{{0,2}}[-+*/x×÷]\s{{0,2}}{_TERM}{_WORDS}){{1,9}})\s{{0,2}}=\s{{0,2}}\$?(-?\d[\d,]*+(?:\.\d+)?+)(%?)"
    # "5 + 2 * 5 = 5 + 10" is a step on the way, not a result.
    r"(?!\s*[A-Za-z]{0,20}\s*(?:[-+*/×÷(]|x\s)\s*\S)(?!\s*[A-Za-z]\b)"
)
_UNKNOWN = re.compile(r"(?<![A-Za-z])(?:[A-WYZa-wyz]|[xX](?!\s*[\d($-]))(?![A-Za-z])")
"""A letter that stands alone and is no multiplication sign: an equation to be solved, not a calculation."""
_TOLERANCE = 0.011
"""Rounding to whole cents, or to one per cent of the value, is not an error."""
_OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True, slots=True)
class Calculations:
    """What was found in a text."""

    n: int
    n_wrong: int


@dataclass(frozen=True, slots=True)
class ArithmeticScorer:
    """Scores 1 minus the share of wrong calculations; no opinion where an answer states none."""

    @property
    def name(self) -> str:
        return "arithmetic"

    def score(self, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Score]:
        """One score (0..1) per answer."""
        return [_score(check_calculations(answer.text)) for answer in answers]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"kind": "arithmetic"}


def _score(found: Calculations) -> Score:
    if not found.n:
        return Score(None, "no calculation to check")
    reason = f"{found.n_wrong} of {found.n} calculations are wrong" if found.n_wrong else None
    return Score(1 - found.n_wrong / found.n, reason)


@lru_cache(maxsize=65536)
def check_calculations(text: str) -> Calculations:
    """Work out again every calculation with numbers on the left and one number on the right of "="."""
    n = n_wrong = 0
    for left, right, percent in _STATED.findall(text):
        value = _value(left)
        if value is None:
            continue
        stated = float(right.replace(",", "")) / (100 if percent and abs(value) <= 1.5 else 1)
        n += 1
        n_wrong += abs(value - stated) > max(_TOLERANCE, _TOLERANCE * abs(value))
    return Calculations(n, n_wrong)


def _value(expression: str) -> float | None:
    if _UNKNOWN.search(expression):
        return None
    expression = re.sub(r"/[A-Za-z]{2,}", "", expression)  # a unit: $2/egg
    plain = re.sub(r"[A-WYZa-wyz]+[A-Za-z]*|[xX][A-Za-z]+|[$,]", "", expression)
    plain = re.sub(r"(\d+(?:\.\d+)?)%", r"(\1/100)", plain).replace("×", "*").replace("÷", "/")
    plain = re.sub(r"\s*[xX]\s*", "*", plain).strip()
    try:
        return _evaluate(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    raise ValueError("not arithmetic")
