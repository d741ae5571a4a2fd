"""How far a log file has been read, and whether it is still the same file."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cascade.rows import Line

SAMPLE = 4096
"""Bytes at the beginning, and before the mark, by which a file is known again."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """A place in a file: everything before `offset` is in the store."""

    offset: int = 0
    number: int = 0
    """Lines before it."""
    seen: int = 0
    """Offset up to which rows were looked at; those behind `offset` wait for their other call."""

    def past(self, line: Line) -> Watermark:
        """Behind a line; a last line that may still be being written is not passed, and looked at again."""
        if not line.ended:
            return self
        return Watermark(line.end, line.number, max(self.seen, line.end))

    def held_at(self, offset: int | None) -> Watermark:
        """Not beyond the first line that waits; None: nothing does. Lines behind are counted anew when read again."""
        return self if offset is None or offset >= self.offset else replace(self, offset=offset, number=-1)

    def to_dict(self, path: Path) -> dict[str, Any]:
        """As a store keeps it, with what the file is known by."""
        return {**asdict(self), "known_by": _sample(path, self.offset)}


def resume(kept: dict[str, Any] | None, path: Path) -> Watermark:
    """The kept mark if the file still is what was read then (and perhaps more), else its beginning."""
    if kept is None:
        return Watermark()
    mark = Watermark(kept["offset"], kept["number"], kept["seen"])
    if path.stat().st_size < mark.offset or _sample(path, mark.offset) != kept["known_by"]:
        return Watermark()
    return replace(mark, number=_lines_before(path, mark.offset)) if mark.number < 0 else mark


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


def _lines_before(path: Path, offset: int) -> int:
    with path.open("rb") as file:
        n = 0
        while offset > 0:
            part = file.read(min(2**20, offset))
            if not part:
                break
            n += part.count(b"\n")
            offset -= len(part)
    return n
