"""Parts of a verifier too large for its record: a file each, in a folder named by its digest, never changed.

    <digest>/learned.safetensors     the part
    <digest>/replaced.json           instead of it: what was taken out of it, and the part that stands for it now

Only what must be forgotten makes a part go. Whoever asks for the old digest, a registered version above all, gets the
part that stands for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Protocol

from cascade.errors import InputError


class Part(Protocol):
    """What can be kept: bytes, their SHA-256, and the name of the file."""

    @property
    def file(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def content(self) -> bytes: ...


REPLACED = "replaced.json"


def store_part(part: Part, root: Path) -> Path:
    """Keep a part as root/<digest>/<file> and return that path; an undamaged copy is left alone.

    A part that was replaced is not kept again: what was taken out of it would be back.
    """
    path = root / part.digest / part.file
    if (path.parent / REPLACED).exists():
        return path
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == part.digest:
        return path
    _write(path, part.content)
    return path


def read_part(root: Path, digest: str, file: str) -> bytes:
    """The bytes kept under root/<digest>, or of the part that stands for it. Raises InputError where they are missing
    or altered, or where the part was withdrawn."""
    current, why = standing(root, digest)
    remedy = "restore the file, or fit the verifier again"
    if current is None:
        raise InputError(f"the verifier's part {root / digest} was withdrawn ({why}): fit the verifier again")
    path = root / current / file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the verifier's part {path}: {error.strerror}; {remedy}") from error
    if hashlib.sha256(content).hexdigest() != current:
        raise InputError(f"the verifier's part {path} is not what was stored, its digest differs: {remedy}")
    return content


def standing(root: Path, digest: str) -> tuple[str | None, str]:
    """(digest, why) of the part that stands for this one, itself where it was never replaced; None when withdrawn."""
    current: str | None = digest
    why = ""
    while current is not None and (note := root / current / REPLACED).exists():
        found = json.loads(note.read_text(encoding="utf-8"))
        current, why = found["by"], found["why"]
    return current, why


def replace_part(root: Path, digest: str, file: str, by: Part | None, why: str) -> None:
    """Put another part in the place of one, or none, and delete its file; killed midway, the same call ends it."""
    if by is not None:
        store_part(by, root)
    note = {"by": None if by is None else by.digest, "why": why}
    _write(root / digest / REPLACED, json.dumps(note).encode())
    (root / digest / file).unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    incoming = path.with_name(f".incoming-{uuid.uuid4().hex}")
    with incoming.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    incoming.replace(path)
