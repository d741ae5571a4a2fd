"""Where the tests keep data: an SQLite file, a real PostgreSQL (started once a session), lakes on disk or in memory."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from cascade.database import connect
from lab.postgres import PostgresMissingError, temporary_postgres

STORES = ("sqlite", "postgresql", "lake", "lake in memory")
DATABASES = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def postgres():
    """Makes a new, empty schema on the session's own server and returns its URL."""
    try:
        with temporary_postgres(durable=False) as url:
            server = connect(url)

            def schema() -> str:
                name = f"t{secrets.token_hex(6)}"
                with server.begin() as connection:
                    connection.execute(sa.text(f"CREATE SCHEMA {name}"))
                return f"{url}&options=-csearch_path%3D{name}"

            yield schema
            server.dispose()
    except PostgresMissingError as error:
        pytest.skip(str(error))


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
