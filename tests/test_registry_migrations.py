"""Registries from before migrations are taken over whole; the tables are those that the code uses, and guarded."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from databases import DATABASES, place
from test_store import make_trace

from cascade.database import connect
from cascade.errors import StoreError
from cascade.store import open_traces
from promotion.clusters import open_history
from promotion.database import METADATA
from promotion.registry import Lineage, Registry

OLDEST = """
CREATE TABLE versions (
    number {key}, name VARCHAR NOT NULL, base_model VARCHAR NOT NULL, adapter_digest VARCHAR, verifier JSON,
    report VARCHAR, run_id VARCHAR, created VARCHAR NOT NULL, metadata JSON NOT NULL);
CREATE TABLE aliases (
    alias VARCHAR NOT NULL PRIMARY KEY, number INTEGER NOT NULL, FOREIGN KEY(number) REFERENCES versions (number));
CREATE TABLE history (
    id {key}, time VARCHAR NOT NULL, action VARCHAR NOT NULL, number INTEGER NOT NULL, replaced INTEGER,
    who VARCHAR NOT NULL, why VARCHAR NOT NULL, run_id VARCHAR,
    FOREIGN KEY(number) REFERENCES versions (number), FOREIGN KEY(replaced) REFERENCES versions (number));
INSERT INTO versions (name, base_model, verifier, created, metadata) VALUES ('s', 'b', '{{"a": 1}}', 'then', '{{}}');
INSERT INTO versions (name, base_model, created, metadata) VALUES ('s', 'b', 'later', '{{"n": 2}}');
INSERT INTO aliases VALUES ('champion', 2), ('previous', 1);
INSERT INTO history (time, action, number, who, why) VALUES ('then', 'register', 1, 'ana', 'first'),
    ('later', 'promote', 2, 'ben', 'better');
"""
"""The first version's tables, as SQLAlchemy wrote them, and what a registry of two versions held."""
KEYS = {"sqlite": "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT", "postgresql": "SERIAL NOT NULL PRIMARY KEY"}
GUARDS = {
    "sqlite": "CREATE TRIGGER {t}_no_{v} BEFORE {v} ON {t} BEGIN SELECT RAISE(ABORT, '{t} is append-only'); END",
    "postgresql": "CREATE TRIGGER {t}_no_{v} BEFORE {v} ON {t} EXECUTE FUNCTION {t}_refuse()",
}
REFUSE = (
    "CREATE FUNCTION {t}_refuse() RETURNS trigger LANGUAGE plpgsql"
    " AS $$ BEGIN RAISE EXCEPTION '{t} is append-only'; END $$"
)


@pytest.fixture(params=DATABASES)
def url(request, tmp_path):
    if request.param == "postgresql":
        return place(request.param, tmp_path, request.getfixturevalue("postgres"))
    return f"sqlite:///{tmp_path / 'registry.db'}"


def run_sql(url, *statements):
    engine = connect(url)
    try:
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
    finally:
        engine.dispose()


def make_oldest(url):
    kind = url.split(":")[0]
    tables = [statement for statement in OLDEST.format(key=KEYS[kind]).split(";") if statement.strip()]
    refuse = [REFUSE.format(t=t) for t in ("versions", "history")] if kind == "postgresql" else []
    guards = [GUARDS[kind].format(t=t, v=v) for t in ("versions", "history") for v in ("update", "delete")]
    run_sql(url, *tables, *refuse, *guards)


def make_newest(url):
    """All tables of the last version without migrations, a cluster among what it held."""
    make_oldest(url)
    engine = connect(url)
    METADATA.create_all(engine)
    engine.dispose()
    run_sql(
        url,
        "INSERT INTO lineage (number, data_digest, card) VALUES (2, 'd2', '# card')",
        "INSERT INTO cluster_runs (run_id, until, embedder) VALUES ('r1', '2026-03-08T00:00:00.000000+00:00', 'e')",
    )


@pytest.mark.parametrize("make", [make_oldest, make_newest])
def test_a_registry_from_before_migrations_keeps_all_that_it_held(url, make, tmp_path):
    make(url)
    for _ in range(2):  # the second opening finds nothing to do
        with closing(Registry(url, tmp_path / "state")) as registry:
            first, second = registry.versions()
            assert (first.id, first.verifier, first.created) == ("v1", {"a": 1}, "then")
            assert (second.id, second.verifier, second.metadata) == ("v2", None, {"n": 2})
            assert registry.aliases() == {"champion": "v2", "previous": "v1"}
            assert [(h.action, h.version, h.who) for h in registry.history()] == [
                ("register", "v1", "ana"),
                ("promote", "v2", "ben"),
            ]
            old = make is make_oldest
            assert registry.lineage("v2") == (Lineage() if old else Lineage(data_digest="d2"))
            assert registry.card("v2") == (None if old else "# card")
    with open_history(url) as history:
        assert history.runs() == ([] if old else ["r1"])
        history.record("r2", datetime(2026, 3, 15, tzinfo=UTC), "e", [])
        assert history.runs() == ([] if old else ["r1"]) + ["r2"]
    with closing(Registry(url, tmp_path / "state")) as registry:
        assert registry.register(name="s", base_model="b").id == "v3"
        assert registry.rollback(who="ana", why="worse").id == "v1"
    for table in ("versions", "history", "lineage"):  # whether the old one had its guards or not
        with pytest.raises(sa.exc.DBAPIError, match=f"{table} is append-only"):
            run_sql(url, f"UPDATE {table} SET number = 1")


def test_a_database_with_a_history_of_clusters_alone_gets_the_rest(url, tmp_path):
    engine = connect(url)
    METADATA.create_all(engine, tables=[METADATA.tables["cluster_runs"], METADATA.tables["cluster_sightings"]])
    engine.dispose()
    run_sql(url, "INSERT INTO cluster_runs (run_id, until, embedder) VALUES ('r1', '2026', 'e')")
    with open_history(url) as history, closing(Registry(url, tmp_path / "state")) as registry:
        assert history.runs() == ["r1"]
        assert registry.register(name="s", base_model="b").id == "v1"


def test_migrations_make_the_tables_that_the_code_uses(url, tmp_path):
    Registry(url, tmp_path / "state").close()
    engine = connect(url)
    found = sa.inspect(engine)
    for table in METADATA.sorted_tables:
        made = {c["name"]: (type(c["type"])._type_affinity, c["nullable"]) for c in found.get_columns(table.name)}
        assert made == {c.name: (type(c.type)._type_affinity, c.nullable) for c in table.columns}, table.name
        keys = {(tuple(k["constrained_columns"]), k["referred_table"]) for k in found.get_foreign_keys(table.name)}
        assert keys == {((c.name,), next(iter(c.foreign_keys)).column.table.name) for c in table.c if c.foreign_keys}
        assert found.get_pk_constraint(table.name)["constrained_columns"] == [c.name for c in table.primary_key]
    engine.dispose()


def test_what_is_written_once_refuses_to_change(url, tmp_path):
    with closing(Registry(url, tmp_path / "state")) as registry:
        registry.register(name="s", base_model="b")
    for table in ("versions", "history", "lineage"):
        for statement in (f"UPDATE {table} SET number = 9", f"DELETE FROM {table}"):
            with pytest.raises(sa.exc.DBAPIError, match=f"{table} is append-only"):
                run_sql(url, statement)


def test_a_newer_registry_is_refused_in_one_sentence(url, tmp_path):
    Registry(url, tmp_path / "state").close()
    run_sql(url, "UPDATE registry_revision SET version_num = '9999'")
    with pytest.raises(StoreError, match=r"revision 9999.*written by a newer cascade-distill") as caught:
        Registry(url, tmp_path / "state")
    assert "\n" not in str(caught.value)


def test_traces_and_registry_share_a_database(url, tmp_path):
    with closing(open_traces(url)) as store, closing(Registry(url, tmp_path / "state")) as registry:
        store.add([make_trace(1)])
        registry.register(name="s", base_model="b")
    with closing(open_traces(url)) as store, closing(Registry(url, tmp_path / "state")) as registry:
        assert store.count() == len(registry.versions()) == 1


def test_many_may_open_an_old_registry_at_once(url, tmp_path):
    make_oldest(url)

    def opened(_):
        with closing(Registry(url, tmp_path / "state")) as registry:
            return len(registry.versions())

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(opened, range(6))) == [2] * 6
