"""Places for the stores under test: an SQLite file, a real PostgreSQL (conftest.py), lakes on disk or in memory."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

STORES = ("sqlite", "postgresql", "lake", "lake in memory")
DATABASES = ("sqlite", "postgresql")


def place(kind: str, folder: Path, postgres: Callable[[], str] | None) -> str:
    """A new, empty place for a store of a kind."""
    if kind == "postgresql":
        assert postgres is not None
        return postgres()
    places = {
        "sqlite": str(folder / "deep" / "traces.db"),
        "lake": f"lake:{folder / 'deep' / 'lake'}",
        "lake in memory": f"memory://{secrets.token_hex(6)}/lake",
    }
    return places[kind]
