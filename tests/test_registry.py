"""The registry: immutable versions, atomic aliases, nothing lost under SIGKILL."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from databases import DATABASES

from cascade.errors import RegistryError
from promotion.files import folder_digest
from promotion.registry import Registry, version_to_dict


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


WRITERS = """
import os, random, signal, sys
from pathlib import Path
from promotion.registry import Registry
folder = Path(sys.argv[1])

def write(seed):
    rng = random.Random(seed)
    registry = Registry(f"sqlite:///{folder / 'registry.db'}", folder / "registry")
    done = os.open(folder / f"done-{seed}", os.O_WRONLY | os.O_CREAT)
    source = folder / f"adapter-{seed}"
    source.mkdir()
    for step in range(10_000):
        who = f"{seed}.{step}"
        if rng.random() < 0.6:
            for part in range(4):
                (source / f"part{part}").write_text(who * 5000)
            version = registry.register(name="s", base_model="b", adapter=source, who=who, why="more")
            os.write(done, f"register {who}\\n".encode())
            registry.promote(version.id, who=who, why="better")
            os.write(done, f"promote {who}\\n".encode())
        else:
            registry.rollback(who=who, why="worse")
            os.write(done, f"rollback {who}\\n".encode())

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            write(int(line))
        except BaseException as error:
            (folder / f"failed-{line.strip()}").write_text(repr(error))
        finally:
            os._exit(1)
    print(pid, flush=True)
"""


def wait_for_steps(path, steps):
    while not path.exists() or path.read_text().count("\n") < steps:
        assert not list(path.parent.glob("failed-*"))
        time.sleep(0.002)


def kill_writers(folder, rounds, at_once, rng):
    """Start writers and SIGKILL each at a random moment; yields after every round."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", WRITERS, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as parent:
        try:
            for round_ in range(rounds):
                pids = []
                for writer in range(at_once):
                    parent.stdin.write(f"{round_ * at_once + writer}\n")
                    parent.stdin.flush()
                    pids.append(int(parent.stdout.readline()))
                for writer, pid in enumerate(pids):
                    wait_for_steps(folder / f"done-{round_ * at_once + writer}", rng.randrange(4))
                    time.sleep(rng.uniform(0.0, 0.05))
                    os.kill(pid, signal.SIGKILL)
                yield
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


def replay(history):
    """The aliases that the history alone implies."""
    aliases = {}
    for entry in history:
        if entry.action == "register":
            aliases["candidate"] = entry.version
        elif entry.action == "promote":
            assert entry.replaced == aliases.get("champion")
            if entry.replaced:
                aliases["previous"] = entry.replaced
            aliases["champion"] = entry.version
            if aliases.get("candidate") == entry.version:
                del aliases["candidate"]
        elif entry.action == "rollback":
            assert (entry.replaced, entry.version) == (aliases["champion"], aliases["previous"])
            aliases["champion"], aliases["previous"] = entry.version, entry.replaced
    return aliases


def test_sigkill_at_any_moment_leaves_a_whole_registry(tmp_path):
    registry = open_registry(tmp_path)
    for content in ("a", "b"):
        registry.promote(register(registry, adapter=adapter_folder(tmp_path, content)).id, **BY)
    seen, broken = set(), []
    done = threading.Event()

    def read():
        reader = open_registry(tmp_path)
        while not done.is_set():
            try:
                seen.add(reader.resolve("champion").id)
                reader.resolve("previous")
            except Exception as error:
                broken.append(repr(error))
        reader.close()

    reader_thread = threading.Thread(target=read)
    reader_thread.start()
    rounds = 0
    with closing(kill_writers(tmp_path, rounds=14, at_once=3, rng=random.Random(17))) as killed:
        try:
            for _ in killed:
                replay(registry.history())
                rounds += 1
        finally:
            done.set()
            reader_thread.join()
    history = registry.history()
    assert broken == []
    assert not list(tmp_path.glob("failed-*"))
    acknowledged = {tuple(line.split()) for path in tmp_path.glob("done-*") for line in path.read_text().splitlines()}
    assert acknowledged <= {(entry.action, entry.who) for entry in history}
    assert replay(history) == registry.aliases()
    assert [entry.id for entry in history] == list(range(1, len(history) + 1))
    for version in registry.versions():
        assert registry.resolve(version.id) == version
    for folder in (tmp_path / "registry" / "adapters").iterdir():
        assert folder.name.startswith(".incoming-") or folder_digest(folder) == folder.name
    assert rounds == 14
    assert len(acknowledged) > 30
    assert len(seen) > 1
    registry.close()
