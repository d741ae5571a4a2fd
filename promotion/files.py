"""Folders that are copied whole or not at all, and named by what is in them."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from pathlib import Path

from cascade.errors import RegistryError

_INCOMING = ".incoming-"
_STALE_S = 3600.0  # an unfinished copy this old belongs to a process that died


def folder_digest(folder: Path) -> str:
    """SHA-256 (hex) over the relative paths and contents of all files in a folder, in sorted order."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def adopt_folder(source: Path, store: Path) -> str:
    """Copy `source` to `store`/<digest of its content> and return the digest.

    The copy is made and synced under another name and renamed last, so that a folder named by a digest
    is complete. A folder that is there already is kept, unless it is damaged: then the copy takes its
    place. Raises RegistryError when `source` is not a folder with files, or changes while it is copied.
    """
    if not source.is_dir() or not any(p.is_file() for p in source.rglob("*")):
        raise RegistryError(f"adapter folder {source} is missing or empty: train the adapter first")
    store.mkdir(parents=True, exist_ok=True)
    _sweep(store)
    digest = folder_digest(source)
    target = store / digest
    if target.is_dir() and folder_digest(target) == digest:
        return digest
    incoming = _temporary(store)
    shutil.copytree(source, incoming)
    _sync_tree(incoming)
    if folder_digest(incoming) != digest:
        shutil.rmtree(incoming)
        raise RegistryError(f"adapter folder {source} changed while it was copied: register it again")
    try:
        incoming.rename(target)
    except OSError:
        # Something stands there: the same content, adopted by another process meanwhile, or a damaged copy.
        if folder_digest(target) == digest:
            shutil.rmtree(incoming)
        else:
            target.rename(_temporary(store))
            incoming.rename(target)
    _sync_folder(store)
    return digest


def _temporary(store: Path) -> Path:
    # The start time stands in the name: copying a folder copies its times too.
    return store / f"{_INCOMING}{int(time.time())}-{uuid.uuid4().hex}"


def _sweep(store: Path) -> None:
    for leftover in store.glob(f"{_INCOMING}*"):
        started = leftover.name.removeprefix(_INCOMING).split("-")[0]
        if started.isdigit() and time.time() - int(started) > _STALE_S:
            shutil.rmtree(leftover, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            _sync_folder(path)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a folder to a name of its own, whole or not at all; a copy that is there already is replaced."""
    if not source.is_dir():
        raise RegistryError(f"adapter folder {source} is missing: register the version again")
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent)
    incoming = _temporary(target.parent)
    shutil.copytree(source, incoming)
    _sync_tree(incoming)
    aside = _temporary(target.parent) if target.exists() else None
    if aside is not None:
        target.rename(aside)
    incoming.rename(target)
    _sync_folder(target.parent)
    if aside is not None:
        shutil.rmtree(aside)
