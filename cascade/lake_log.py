"""The commit log of a lake: which of its files count. See `cascade.lake`.

    _log/00000000000000000042.json       commit 42: which files it added and removed

Commits are made one after the other: number n + 1 is created only if it is not there (a hard link on a disk, a
conditional put in an object store); who comes second reads what the first one did and tries again. The idea is that of
Delta Lake's log (Armbrust et al., VLDB 2020). Every CHECKPOINT-th commit repeats the whole list of files, so that
opening stays quick.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import time as clock
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

CHECKPOINT = 50
ATTEMPTS = 60
ORPHAN_AGE_S = 3600.0
"""Age from which a file that no commit names is taken to be a dead writer's."""


@dataclass(frozen=True, slots=True)
class LakeFile:
    """One live Parquet file."""

    path: str
    """Relative to the lake's root."""
    n: int
    first_us: int
    last_us: int

    @property
    def day(self) -> str:
        return self.path.split("/", 1)[0]


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit adds and removes (paths)."""

    add: tuple[LakeFile, ...]
    remove: tuple[str, ...] = ()


class CommitLog:
    """The log below `root`, a folder or an fsspec URL. Raises ConfigError where the place cannot be used."""

    def __init__(self, root: str | Path) -> None:
        self.fs, self.root = open_root(str(root))
        self.local = "file" in _protocols(self.fs)
        self.files: dict[str, LakeFile] = {}
        """Live files by path, as of the last `refresh`."""
        self._version = -1
        try:
            self.fs.makedirs(f"{self.root}/_log", exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the lake {root}: {error}") from error
        self.refresh()

    def commit(self, change: Callable[[], tuple[Change | None, int]]) -> int:
        """Make one commit of what `change` says the newest state needs; a lost race asks it again."""
        written: set[str] = set()
        for attempt in range(ATTEMPTS):
            self.refresh()
            try:
                planned, n = change()
            except FileNotFoundError:
                continue  # compacted away meanwhile: the next look at the log tells
            if planned is None:
                self.delete(written)
                return n
            files = {file.path for file in planned.add}
            self.delete(written - files)
            written = files
            if self._write(planned):
                self._apply(planned.add, planned.remove)
                self._version += 1
                self.delete(planned.remove)
                return n
            clock.sleep(random.uniform(0, 0.01 * 2 ** min(attempt, 5)))
        self.delete(written)
        raise StoreError(f"the lake {self.root} is always busy: {ATTEMPTS} attempts to commit were overtaken")

    def _write(self, change: Change) -> bool:
        """Create the next commit; False when another writer was first."""
        number = self._version + 1
        content: dict[str, Any] = {"add": [asdict(f) for f in change.add], "remove": list(change.remove)}
        if number % CHECKPOINT == 0:
            live = {f.path: f for f in [*self.files.values(), *change.add]}
            content["live"] = [asdict(f) for path, f in live.items() if path not in change.remove]
        return _create(self.fs, self._log_path(number), json.dumps(content).encode(), local=self.local)

    def refresh(self) -> None:
        """Take in the commits since the last look."""
        if self._version < 0:
            names = [Path(path).stem for path in self.fs.ls(f"{self.root}/_log", detail=False)]
            newest = max((int(name) for name in names if name.isdigit()), default=-1)
            self._version = newest - newest % CHECKPOINT - 1 if newest >= 0 else -1
        while True:
            try:
                # The listing of an object store may be cached; a read is not.
                raw = self.fs.cat_file(self._log_path(self._version + 1))
            except FileNotFoundError:
                return
            try:
                content = json.loads(raw)
                if "live" in content:
                    self.files = {f["path"]: LakeFile(**f) for f in content["live"]}
                else:
                    self._apply([LakeFile(**f) for f in content["add"]], content["remove"])
            except (ValueError, KeyError, TypeError) as error:
                path = self._log_path(self._version + 1)
                raise StoreError(f"{path} is no commit of a lake ({error}): restore it from a backup") from error
            self._version += 1

    def _apply(self, add: Iterable[LakeFile], remove: Iterable[str]) -> None:
        self.files |= {file.path: file for file in add}
        for path in remove:
            self.files.pop(path, None)

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            try:
                self.fs.rm_file(f"{self.root}/{path}")
            except FileNotFoundError:
                continue

    def sweep(self) -> None:
        """Delete files that no commit names, once they are old enough to be nobody's."""
        self.refresh()
        for path, info in self.fs.find(self.root, detail=True).items():
            relative = path.removeprefix(f"{self.root}/")
            if relative.startswith("day=") and relative not in self.files and _age_s(info) > ORPHAN_AGE_S:
                self.delete([relative])

    def _log_path(self, number: int) -> str:
        return f"{self.root}/_log/{number:020d}.json"


def open_root(root: str) -> tuple[AbstractFileSystem, str]:
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(root if "://" in root else str(Path(root).resolve()), use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"the lake {root!r} cannot be opened: {error}") from error
    return fs, str(path).rstrip("/")


def _protocols(fs: AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _create(fs: AbstractFileSystem, path: str, content: bytes, *, local: bool) -> bool:
    """Create a file with its whole content, unless it is there: False then."""
    if not local:
        try:
            fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        return True
    temporary = Path(f"{path}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _age_s(info: Mapping[str, Any]) -> float:
    changed = info.get("mtime") or info.get("LastModified") or info.get("created") or info.get("updated")
    if isinstance(changed, datetime):
        return clock.time() - changed.timestamp()
    return clock.time() - float(changed) if isinstance(changed, int | float) else 0.0
