"""Parts of a verifier too large for its record: a file each, in a folder named by its digest, never changed."""

from __future__ import annotations

import hashlib
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


def store_part(part: Part, root: Path) -> Path:
    """Keep a part as root/<digest>/<file> and return that path; an undamaged copy is left alone."""
    path = root / part.digest / part.file
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == part.digest:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    incoming = path.with_name(f".incoming-{uuid.uuid4().hex}")
    with incoming.open("wb") as file:
        file.write(part.content)
        file.flush()
        os.fsync(file.fileno())
    incoming.replace(path)
    return path


def read_part(root: Path, digest: str, file: str) -> bytes:
    """The bytes kept under root/<digest>. Raises InputError where they are missing or altered."""
    path = root / digest / file
    remedy = "restore the file, or fit the verifier again"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the verifier's part {path}: {error.strerror}; {remedy}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise InputError(f"the verifier's part {path} is not what was stored, its digest differs: {remedy}")
    return content
