"""A throw-away PostgreSQL server for tests and benchmarks: Debian's binaries, a socket in a temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class PostgresMissingError(RuntimeError):
    """No PostgreSQL server can be started here."""


@contextmanager
def temporary_postgres(durable: bool = True, folder: Path | None = None) -> Iterator[str]:
    """Start a server of its own below a new temporary folder (in `folder`); yields the URL of its first database.

    It listens on no port. `durable=False` leaves out the syncs, for tests. Raises PostgresMissingError where there are
    no binaries, or no other user to run them as (PostgreSQL refuses root).
    """
    initdb, server = _binary("initdb"), _binary("postgres")
    control = server.with_name("pg_ctl")
    root = Path(tempfile.mkdtemp(prefix="cascade-pg-", dir=folder))
    identity = _unprivileged(root)
    try:
        _run([initdb, "-D", root / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"], identity)
        settings = f"-c listen_addresses='' -c unix_socket_directories='{root}'"
        if not durable:
            settings += " -c fsync=off -c full_page_writes=off -c synchronous_commit=off"
        start: list[str | Path] = [
            control,
            "-D",
            root / "data",
            "-w",
            "-t",
            "60",
            "-l",
            root / "log",
            "-o",
            settings,
            "start",
        ]
        _run(start, identity)
        try:
            yield f"postgresql://postgres@/postgres?host={root}"
        finally:
            _run([control, "-D", root / "data", "-w", "-m", "immediate", "stop"], identity, RuntimeError)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _binary(name: str) -> Path:
    candidates = [*sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)]
    found = shutil.which(name)
    if found:
        candidates.append(Path(found).resolve())
    if not candidates:
        raise PostgresMissingError(f"no PostgreSQL here ({name} is missing): apt-get install postgresql")
    return candidates[0]


def _unprivileged(root: Path) -> dict[str, Any]:
    """Arguments of `subprocess.run` that make the server run as somebody other than root."""
    if os.geteuid() != 0:
        return {}
    import pwd

    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        raise PostgresMissingError(
            "PostgreSQL does not run as root, and there is no user postgres to run it as"
        ) from None
    os.chown(root, user.pw_uid, user.pw_gid)
    root.chmod(0o755)  # the tests' own user connects through the socket in it
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _run(
    command: Sequence[str | Path], identity: dict[str, Any], failure: type[RuntimeError] = PostgresMissingError
) -> None:
    """A server that cannot start is missing; one that cannot stop was lost under way, which is no reason to skip."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/",
        text=True,
        check=False,
        **identity,
    )
    if done.returncode:
        raise failure(f"{Path(command[0]).name} failed: {' '.join(done.stderr.split())[:300]}")
