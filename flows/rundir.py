"""The folder of one run: stages, their manifests, and the rule by which a finished stage is skipped.

    runs/<run_id>/<nn-stage>/intent.json     written first: the fingerprint that the stage works towards
    runs/<run_id>/<nn-stage>/...             the stage's records
    runs/<run_id>/<nn-stage>/manifest.json   written last: its presence means that the stage is complete

A stage is skipped only when a manifest with the same fingerprint is there. A stage that was killed finds its
intent with the same fingerprint and may go on from what lies in the folder; a different fingerprint empties it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cascade.errors import StageError
from cascade.store import from_text

RECORDED_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "hdbscan",
    "sentence-transformers",
    "prefect",
    "datasets",
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a finished stage says of itself."""

    stage: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]
    counts: dict[str, Any]
    seconds: float
    written: str
    packages: dict[str, str]
    commit: str | None


@dataclass(frozen=True, slots=True)
class RunDir:
    """One run's folder."""

    root: Path

    @property
    def run_id(self) -> str:
        return self.root.name

    def stage(self, name: str) -> Path:
        return self.root / name

    def manifest(self, name: str) -> Manifest | None:
        """The stage's manifest, or None while it is not complete."""
        path = self.stage(name) / "manifest.json"
        return Manifest(**read_json(path)) if path.exists() else None

    def run_stage(
        self,
        name: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        body: Callable[[Path], dict[str, Any]],
    ) -> Manifest:
        """Run `body(folder) -> counts` unless a manifest with the same fingerprint is there.

        `config` holds every setting that changes the result; `inputs` the digests of what is read.
        """
        fingerprint = digest_json({"stage": name, "config": config, "inputs": dict(inputs)})
        done = self.manifest(name)
        if done is not None and done.fingerprint == fingerprint:
            return done
        folder = self._open_stage(name, fingerprint)
        started = datetime.now(UTC)
        counts = body(folder)
        now = datetime.now(UTC)
        manifest = Manifest(
            stage=name,
            fingerprint=fingerprint,
            config=dict(config),
            inputs=dict(inputs),
            outputs=digest_folder(folder),
            counts=counts,
            seconds=round((now - started).total_seconds(), 3),
            written=now.isoformat(),
            packages=_package_versions(),
            commit=_commit(),
        )
        write_json(folder / "manifest.json", {f: getattr(manifest, f) for f in Manifest.__slots__})
        return manifest

    def _open_stage(self, name: str, fingerprint: str) -> Path:
        folder = self.stage(name)
        intent = folder / "intent.json"
        if folder.exists() and not (intent.exists() and read_json(intent)["fingerprint"] == fingerprint):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        write_json(intent, {"stage": name, "fingerprint": fingerprint})
        return folder


def digest_json(value: object) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(folder: Path) -> dict[str, str]:
    """SHA-256 of every record below a stage folder, by relative path (manifest, intent and scratch apart)."""
    return {
        str(path.relative_to(folder)): digest_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {"manifest.json", "intent.json"} and "work" not in path.parts
    }


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: temporary name, fsync, rename."""
    _write_whole(path, [content])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines as they come, in UTF-8, each with its line break: a whole file, or none when one cannot be made."""
    _write_whole(path, (f"{line}\n".encode() for line in lines))


def _write_whole(path: Path, parts: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_lines(path, (json.dumps(row, default=str) for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a stage's own records; a missing file means that the stage before did not finish."""
    return list(iter_jsonl(path))


def iter_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """As `read_jsonl`, one by one."""
    if not path.exists():
        raise StageError(f"{path} is missing: run the stage that writes it first")
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield from_text(line)


def _package_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    root = Path(__file__).resolve().parent
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
