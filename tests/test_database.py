"""Transactions of the registry's database: whole or not at all, and readers see one moment."""

import pytest
import sqlalchemy as sa
from databases import DATABASES

from promotion.database import ALIASES, VERSIONS, open_database, reading, writing

VERSION = {"name": "s", "base_model": "b", "created": "now", "metadata": {}}


@pytest.fixture(params=DATABASES)
def engine(request, tmp_path):
    at_server = request.param == "postgresql"
    engine = open_database(request.getfixturevalue("postgres")() if at_server else f"sqlite:///{tmp_path / 'r.db'}")
    yield engine
    engine.dispose()


def count(connection):
    return connection.execute(sa.select(sa.func.count()).select_from(VERSIONS)).scalar_one()


def test_a_failed_transaction_leaves_nothing(engine):
    with pytest.raises(RuntimeError), writing(engine) as connection:
        connection.execute(VERSIONS.insert().values(**VERSION))
        raise RuntimeError
    with reading(engine) as connection:
        assert count(connection) == 0


def test_an_alias_needs_a_version(engine):
    with pytest.raises(sa.exc.IntegrityError, match=r"(?i)foreign key"), writing(engine) as connection:
        connection.execute(ALIASES.insert().values(alias="champion", number=7))


def test_a_reader_is_not_blocked_and_sees_one_moment(engine):
    with reading(engine) as reader:
        assert count(reader) == 0
        with writing(engine) as writer:
            writer.execute(VERSIONS.insert().values(**VERSION))
            with reading(engine) as other:
                assert count(other) == 0
        assert count(reader) == 0
    with reading(engine) as later:
        assert count(later) == 1


def test_an_unset_verifier_is_null(engine):
    with writing(engine) as connection:
        connection.execute(VERSIONS.insert().values(**VERSION, verifier=None))
        assert connection.execute(sa.text("SELECT verifier IS NULL FROM versions")).scalar_one() == 1
