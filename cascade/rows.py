"""Lines of a log file, and one line to a sound JSON object; a line that is not one says why."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

MAX_LINE = 16 * 2**20
"""Bytes of the longest line that is read; what is longer is skipped, and said so."""
MAX_DEPTH = 64
"""Objects and lists inside one another."""
_INT_LIMIT = 2**63


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file, or one element of a file that is a JSON list."""

    number: int
    """Counted from 1, as editors do."""
    start: int
    """Offset of its first byte in the file."""
    end: int
    """Offset behind its line break."""
    raw: bytes
    """Without its line break; the beginning of a line that is too long."""
    length: int
    """Bytes in the file, without the line break."""
    ended: bool
    """False for a last line without a line break: it may still be being written."""


def read_lines(path: Path, start: int = 0, number: int = 0) -> Iterator[Line]:
    """Lines from byte `start` on, the first being `number` + 1; blank ones are left out. Raises OSError."""
    with path.open("rb") as file:
        file.seek(start)
        while True:
            raw = file.readline(MAX_LINE + 1)
            if not raw:
                return
            number += 1
            length = len(raw)
            ended = raw.endswith(b"\n")
            while not ended and length > MAX_LINE:
                more = file.readline(MAX_LINE)
                if not more:
                    break
                length += len(more)
                ended = more.endswith(b"\n")
            end = start + length
            if raw.strip():
                yield Line(number, start, end, raw.rstrip(b"\r\n"), length - ended, ended)
            start = end


def parse_line(line: Line) -> dict[str, Any]:
    """A line to a JSON object; raises ValueError with the reason."""
    if line.length > MAX_LINE:
        raise ValueError(f"the line is {line.length:,} bytes long; at most {MAX_LINE:,} are read")
    return parse_object(line.raw)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Bytes to a JSON object whose texts and numbers can be stored anywhere; raises ValueError with the reason.

    Beyond JSON's own rules: no NaN or infinity, no number beyond 64 bits, no half of a surrogate pair, no nesting
    deeper than `MAX_DEPTH`.
    """
    try:
        row = json.loads(raw.decode("utf-8-sig"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(row, dict):
        raise ValueError(f"not a JSON object but {type(row).__name__}")  # noqa: TRY004 - one error kind per row
    check_sound(row)
    return row


def check_sound(value: Any) -> None:
    """Raises ValueError for what JSON lets through and stores or models choke on; see `parse_object`."""
    level = [value]
    for _ in range(MAX_DEPTH):
        following: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                following += item.keys()
                following += item.values()
            elif isinstance(item, list):
                following += item
            else:
                _check_scalar(item)
        if not following:
            return
        level = following
    raise ValueError("nested too deeply")


def _check_scalar(item: Any) -> None:
    if isinstance(item, str):
        if not item.isascii():
            try:
                item.encode()
            except UnicodeEncodeError:
                raise ValueError("half of a surrogate pair in a text: not Unicode") from None
    elif isinstance(item, float):
        if not math.isfinite(item):
            raise ValueError("a number in it is not finite")
    elif isinstance(item, int) and abs(item) >= _INT_LIMIT:
        raise ValueError("a whole number in it is beyond 64 bits")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name} is no number")
