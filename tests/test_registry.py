"""The registry: immutable versions, atomic aliases, nothing lost under SIGKILL."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from databases import DATABASES

from benchmarks.kill_registry import kill_writers, replay
from cascade.errors import PromotionConflict, RegistryError
from promotion.files import folder_digest
from promotion.registry import Lineage, Registry, version_to_dict


@pytest.fixture(params=DATABASES)
def registry(request, tmp_path):
    if request.param == "postgresql":
        registry = Registry(request.getfixturevalue("postgres")(), tmp_path / "registry")
    else:
        registry = open_registry(tmp_path)
    yield registry
    registry.close()


def open_registry(folder):
    return Registry(f"sqlite:///{folder / 'registry.db'}", folder / "registry")


def adapter_folder(folder, content="weights"):
    path = folder / f"adapter-{content}"
    (path / "nested").mkdir(parents=True, exist_ok=True)
    (path / "adapter_model.safetensors").write_text(content * 1000)
    (path / "nested" / "adapter_config.json").write_text("{}")
    return path


def register(registry, **more):
    return registry.register(**{"name": "support", "base_model": "base", **more})


BY = {"who": "ana", "why": "cheaper at equal quality"}


def test_register_copies_and_resolves(registry, tmp_path):
    source = adapter_folder(tmp_path)
    verifier = {"calibration": {"threshold": -0.2, "knots": (1, 2)}}
    version = register(
        registry,
        adapter=source,
        verifier=verifier,
        report=Path("report.json"),
        run_id="r1",
        metadata={"n": 3},
    )
    shutil.rmtree(source)
    found = registry.resolve("candidate")
    assert found == version == registry.get("v1")
    assert (found.id, found.report, found.metadata) == ("v1", "report.json", {"n": 3})
    assert found.verifier == {"calibration": {"threshold": -0.2, "knots": [1, 2]}}
    assert (found.adapter / "nested" / "adapter_config.json").read_text() == "{}"
    assert folder_digest(found.adapter) == found.adapter_digest
    assert found.serving_name == f"support-v1-{found.adapter_digest[:8]}"
    assert version_to_dict(found)["adapter"] == str(found.adapter)


def test_promote_and_rollback_move_the_aliases(registry, tmp_path):
    for content in ("a", "b", "c"):
        version = register(registry, adapter=adapter_folder(tmp_path, content))
        registry.promote(version.id, **BY)
    assert registry.aliases() == {"champion": "v3", "previous": "v2"}
    assert registry.rollback(who="bo", why="users complain").id == "v2"
    assert registry.aliases() == {"champion": "v2", "previous": "v3"}
    assert registry.rollback(**BY).id == "v3"
    last = registry.history()[-2]
    assert (last.action, last.version, last.replaced, last.who) == ("rollback", "v2", "v3", "bo")
    assert [e.action for e in registry.history()] == ["register", "promote"] * 3 + ["rollback"] * 2
    assert [v.id for v in registry.versions()] == ["v1", "v2", "v3"]


def test_reject_takes_the_candidate_away(registry):
    version = register(registry)
    registry.reject(version.id, **BY)
    registry.reject(version.id, **BY)
    assert registry.aliases() == {}
    assert [e.action for e in registry.history()] == ["register", "reject"]


def test_a_resumed_run_changes_nothing(registry, tmp_path):
    register(registry)
    registry.promote("v1", **BY)
    source = adapter_folder(tmp_path)
    first = register(registry, adapter=source, run_id="r2", metadata={"a": (1, 2)})
    registry.promote("v2", run_id="r2", **BY)
    registry.rollback(who="bo", why="users complain")
    lines = registry.history()
    assert register(registry, adapter=source, run_id="r2", metadata={"a": (1, 2)}) == first
    assert registry.promote("v2", run_id="r2", **BY).id == "v2"
    assert registry.promote("v1", **BY).id == "v1"
    assert registry.aliases()["champion"] == "v1"
    assert registry.history() == lines
    assert registry.promote("v2", run_id="r3", **BY).id == "v2"
    assert registry.aliases()["champion"] == "v2"


def test_damaged_files_are_never_served(registry, tmp_path):
    good = register(registry, adapter=adapter_folder(tmp_path, "good"))
    registry.promote(good.id, **BY)
    bad = register(registry, adapter=adapter_folder(tmp_path, "bad"))
    (bad.adapter / "adapter_model.safetensors").write_text("bad" * 999)
    with pytest.raises(RegistryError, match=r"v2: its adapter .* was changed"):
        registry.resolve("candidate")
    with pytest.raises(RegistryError, match="was changed"):
        registry.promote("v2", **BY)
    assert registry.resolve("champion").id == "v1"
    repaired = register(registry, adapter=adapter_folder(tmp_path, "bad"))
    assert registry.resolve("v2").adapter == repaired.adapter
    registry.promote("v2", **BY)
    shutil.rmtree(good.adapter)
    with pytest.raises(RegistryError, match="gone"):
        registry.rollback(**BY)
    assert registry.aliases()["champion"] == "v2"


def test_versions_and_history_cannot_be_rewritten(registry):
    register(registry)
    for statement in (
        "UPDATE versions SET base_model = 'other'",
        "DELETE FROM versions",
        "UPDATE history SET who = 'nobody'",
        "DELETE FROM history",
    ):
        with registry._engine.connect() as connection, pytest.raises(sa.exc.SQLAlchemyError, match="append-only"):
            connection.execute(sa.text(statement))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r, p: r.resolve("champion"), 'no "champion" \\(known: candidate\\)'),
        (lambda r, p: r.resolve("v9"), "v9 is not in the registry"),
        (lambda r, p: r.promote("nine", **BY), "is not a version"),
        (lambda r, p: r.promote("v1", who="ana", why=" "), "needs who and why"),
        (lambda r, p: r.rollback(**BY), 'no "previous"'),
        (lambda r, p: register(r, adapter=p / "nowhere"), "missing or empty"),
        (lambda r, p: Registry("sqlite:////nowhere/at/all.db", p / "r"), "cannot open the registry"),
    ],
)
def test_errors_are_one_sentence(registry, tmp_path, call, message):
    register(registry)
    with pytest.raises(RegistryError, match=message) as error:
        call(registry, tmp_path)
    assert "\n" not in str(error.value)
    assert registry.aliases() == {"candidate": "v1"}
    assert len(registry.history()) == 1


def test_registering_the_same_adapter_at_once_keeps_one_copy(tmp_path):
    source = adapter_folder(tmp_path)

    def one(_):
        registry = open_registry(tmp_path)
        version = register(registry, adapter=source)
        registry.close()
        return version

    with ThreadPoolExecutor(6) as pool:
        versions = list(pool.map(one, range(12)))
    assert sorted(int(v.id[1:]) for v in versions) == list(range(1, 13))
    assert len({v.adapter for v in versions}) == 1
    assert [p.name for p in (tmp_path / "registry" / "adapters").iterdir()] == [versions[0].adapter_digest]


def test_sigkill_at_any_moment_leaves_a_whole_registry(tmp_path):
    found = kill_writers(42, tmp_path)
    assert found.problems == ()
    assert found.kills == 42
    assert found.acknowledged > 30
    assert found.champions_seen > 1
    assert found.reads > 10
    assert len(found.kinds) >= 3


def test_the_check_after_kills_can_fail(tmp_path):
    registry = open_registry(tmp_path)
    for content in ("a", "b"):
        registry.promote(register(registry, adapter=adapter_folder(tmp_path, content)).id, **BY)
    assert replay(registry.history()) == registry.aliases()
    with pytest.raises(ValueError, match="line 4 replaced v1, champion was None"):
        replay([registry.history()[0], *registry.history()[2:]])
    registry.close()


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(tmp_path):
    registry = open_registry(tmp_path)
    for content in ("a", "b", "c"):
        register(registry, adapter=adapter_folder(tmp_path, content))
    registry.promote("v1", **BY)

    def promote(version):
        mine = open_registry(tmp_path)
        try:
            return mine.promote(version, measured_against="v1", **BY).id
        except PromotionConflict as error:
            return str(error)
        finally:
            mine.close()

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(promote, ("v2", "v3")))
    won = [r for r in results if r in ("v2", "v3")]
    lost = next(r for r in results if r not in won)
    assert len(won) == 1
    assert f"was measured against v1, but {won[0]} is champion now" in lost
    assert registry.aliases()["champion"] == won[0]
    assert registry.aliases()["previous"] == "v1"
    assert [e.action for e in registry.history()].count("promote") == 2
    registry.close()


def test_lineage_and_card_are_kept_and_never_change(registry, tmp_path):
    lineage = Lineage(data_digest="d1", code_commit="abc", config_digest="c1", report_digest="r1")
    version = register(
        registry, adapter=adapter_folder(tmp_path), lineage=lineage, card=lambda v: f"# {v.serving_name}\n"
    )
    assert registry.lineage(version.id) == lineage
    assert registry.card(version.id) == f"# {version.serving_name}\n"
    plain = register(registry)
    assert registry.lineage(plain.id) == Lineage()
    assert registry.card(plain.id) is None
    with registry._engine.connect() as connection, pytest.raises(sa.exc.SQLAlchemyError, match="append-only"):
        connection.execute(sa.text("UPDATE lineage SET card = 'better'"))
    with pytest.raises(RegistryError, match="v9 is not in the registry"):
        registry.card("v9")


def test_a_card_that_cannot_be_written_registers_nothing(registry):
    def broken(_):
        raise ValueError("no report")

    with pytest.raises(ValueError, match="no report"):
        register(registry, card=broken)
    assert registry.versions() == []
    assert registry.history() == []
