"""How far a log file has been read, and whether it is still the same file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.rows import Line

SAMPLE = 4096
"""Bytes at the beginning, and before the mark, by which a file is known again."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """A place in a file: everything before `seen` was read, and is done with but for the lines in `waiting`."""

    offset: int = 0
    """Where the next reading begins: at the first line that waits, else at `seen`."""
    number: int = 0
    """Lines before `offset`."""
    seen: int = 0
    waiting: frozenset[int] = frozenset()
    """Starts of lines whose query's other call may still come, and of a last line without its line break."""
    torn_end: int | None = None
    """End of a last line without its line break that was rejected already."""

    def wants(self, line: Line) -> bool:
        """True for a line that the last reading did not see, or left waiting."""
        return line.start >= self.seen or line.start in self.waiting

    def reported(self, line: Line) -> bool:
        """True for a torn last line that has not grown since it was rejected."""
        return not line.ended and line.end == self.torn_end

    def to_dict(self, path: Path) -> dict[str, Any]:
        """As a store keeps it, with what the file is known by."""
        return {
            "offset": self.offset,
            "number": self.number,
            "seen": self.seen,
            "waiting": sorted(self.waiting),
            "torn_end": self.torn_end,
            "known_by": _sample(path, self.seen if self.torn_end is None else self.offset),
        }


def mark_behind(last: Line | None, waiting: Iterable[Line], before: Watermark) -> Watermark:
    """The mark after a reading that came to `last`, with lines that wait; `before` is the mark that it began with."""
    if last is None:
        return before
    torn = [] if last.ended else [last]
    held = sorted([*waiting, *torn], key=lambda line: line.start)
    return Watermark(
        offset=held[0].start if held else last.end,
        number=held[0].number - 1 if held else last.number,
        seen=last.end,
        waiting=frozenset(line.start for line in held),
        torn_end=last.end if torn else None,
    )


def resume(kept: dict[str, Any] | None, path: Path) -> Watermark:
    """The kept mark if the file still is what was read then (and perhaps more), else its beginning."""
    if kept is None:
        return Watermark()
    mark = Watermark(kept["offset"], kept["number"], kept["seen"], frozenset(kept["waiting"]), kept["torn_end"])
    sampled = mark.seen if mark.torn_end is None else mark.offset
    if path.stat().st_size < sampled or _sample(path, sampled) != kept["known_by"]:
        return Watermark()
    return mark


def source_name(path: Path, log_format: str) -> str:
    """The name under which a store keeps a file's mark."""
    return f"{log_format}:{path.resolve()}"


def _sample(path: Path, offset: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(min(SAMPLE, offset)))
        file.seek(max(0, offset - SAMPLE))
        digest.update(file.read(min(SAMPLE, offset)))
    return digest.hexdigest()
