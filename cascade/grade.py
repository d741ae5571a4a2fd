"""Is an answer right? Graders return a score from 0 (wrong) to 1 (right) against a reference answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, get_args

from cascade.errors import ConfigError, InputError
from cascade.trace import Answer, Query

GradeKind = Literal["exact", "json_exact", "json_f1"]
ReferenceKind = Literal["flagship", "reference"]


def reference_text(query: Query, flagship: Answer, kind: str) -> str:
    """What counts as the right answer: the flagship's, or the one that the traffic carries.

    Raises ConfigError for another kind, InputError where the query carries none.
    """
    if kind not in get_args(ReferenceKind):
        raise ConfigError(f'reference kind is "{kind}": use "flagship" or "reference"')
    if kind == "flagship":
        return flagship.text
    if query.reference is None:
        raise InputError(
            f"query {query.id} carries no reference answer: set reference: flagship, or add references to the traffic"
        )
    return query.reference


def grade(answer_text: str, reference_text: str, kind: str) -> float:
    """Score of `answer_text` against `reference_text`, 0..1.

    - "exact": 1.0 when equal after stripping white space at both ends.
    - "json_exact": 1.0 when both parse to equal JSON (key order free, 1 equals 1.0, true does not equal 1).
      Where neither parses, as "exact"; where only one does, 0.0.
    - "json_f1": F1 over (path, value) pairs of the leaves, so that an answer with some right fields gets a
      part.

    Raises ConfigError for another kind.
    """
    if kind not in get_args(GradeKind):
        raise ConfigError(f"grade kind is {kind!r}; use one of {', '.join(get_args(GradeKind))}")
    if kind == "exact" or answer_text == reference_text:  # which is right by any of them
        return float(answer_text.strip() == reference_text.strip())
    answer_ok, answer = parse_json(answer_text)
    reference_ok, reference = parse_json(reference_text)
    if not answer_ok and not reference_ok:
        return float(answer_text.strip() == reference_text.strip())
    if answer_ok != reference_ok:
        return 0.0
    if kind == "json_exact":
        # What differs under == differs in canonical form, too, and that takes longer to make.
        return float(answer == reference and _canonical(answer) == _canonical(reference))
    return _field_f1(answer, reference)


def parse_json(text: str) -> tuple[bool, Any]:
    """(True, value) of strict JSON text (NaN and Infinity refused), else (False, None)."""
    try:
        return True, _STRICT.decode(text)
    except (ValueError, RecursionError):
        return False, None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_STRICT = json.JSONDecoder(parse_constant=_refuse)


def _canonical(value: Any) -> Any:
    """A form in which == means equal JSON: Python alone holds True == 1."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return value


def _field_f1(answer: Any, reference: Any) -> float:
    found, wanted = Counter(_leaves(answer)), Counter(_leaves(reference))
    shared = sum((found & wanted).values())
    total = sum(found.values()) + sum(wanted.values())
    return 2.0 * shared / total if total else 1.0


def _leaves(value: Any, path: str = "$") -> Iterator[tuple[str, str]]:
    """(path, value as text) of every leaf; an empty object or list is a leaf of its own."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{json.dumps(key)}")
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        # 1 and 1.0 are the same number; going through int keeps long order numbers exact.
        whole = isinstance(value, float) and value.is_integer()
        yield path, json.dumps(int(value) if whole else value)
