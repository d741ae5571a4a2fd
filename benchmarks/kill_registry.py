"""SIGKILL at random moments of promote and rollback: is the registry ever anything but whole?

    python -m benchmarks.kill_registry --kills 240

Writers register real adapter files, promote and roll back as fast as they can, several at once; each is killed at a
random moment. Meanwhile readers resolve "champion" and "previous" and load what they name. At the end the history is
replayed from its first line: it must give the aliases that are there, and hold every change that a writer was told of.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from promotion.registry import HistoryEntry, Registry

WRITERS = """
import os, random, signal, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
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
            weights = np.random.default_rng([seed, step]).normal(size=(64, 16)).astype(np.float32)
            save_file({"lora_A": weights, "lora_B": weights.T.copy()}, source / "adapter_model.safetensors")
            (source / "adapter_config.json").write_text('{"peft_type": "LORA"}')
            version = registry.register(name="s", base_model="b", adapter=source, who=who, why="more",
                                        card=lambda v: f"# {v.id}")
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


@dataclass(frozen=True, slots=True)
class KillReport:
    """What the kills left behind."""

    kills: int
    kinds: dict[str, int]
    """Kills by what the writer had done last."""
    reads: int
    """Times that both aliases were resolved and their files loaded while writers were killed."""
    champions_seen: int
    acknowledged: int
    """Changes that a writer was told of before it was killed."""
    lines: int
    problems: tuple[str, ...]
    """Everything that was not as it must be; empty when the registry stayed whole."""


def kill_writers(kills: int, folder: Path, *, at_once: int = 3, seed: int = 17) -> KillReport:
    """Kill `kills` writers on a registry in `folder`, an empty one, and look at what is left."""
    registry = _open(folder)
    for content in (b"one", b"two"):
        source = folder / f"first-{content.decode()}"
        _adapter(source, content)
        version = registry.register(name="s", base_model="b", adapter=source, card=lambda v: f"# {v.id}")
        registry.promote(version.id, who="first", why="something must serve")
    problems: list[str] = []
    reader = _Reader(folder)
    reader.start()
    kinds: Counter[str] = Counter()
    with closing(_kill(folder, kills, at_once, random.Random(seed))) as killed:
        try:
            for kind in killed:
                kinds[kind] += 1
        finally:
            reader.stop()
    problems += [f"reader: {line}" for line in reader.broken]
    problems += [f"writer: {path.read_text()}" for path in folder.glob("failed-*")]
    told = {tuple(line.split()) for path in folder.glob("done-*") for line in path.read_text().splitlines()}
    history = registry.history()
    problems += [f"lost: {line}" for line in told - {(entry.action, entry.who) for entry in history}]
    problems += _check(registry, history, folder)
    registry.close()
    return KillReport(
        sum(kinds.values()), dict(kinds), reader.n, len(reader.seen), len(told), len(history), tuple(problems)
    )


def replay(history: list[HistoryEntry]) -> dict[str, str]:
    """The aliases that the history alone implies. ValueError where a line does not follow from those before."""
    aliases: dict[str, str] = {}
    for entry in history:
        if entry.action == "register":
            aliases["candidate"] = entry.version
        elif entry.action == "promote":
            if entry.replaced != aliases.get("champion"):
                raise ValueError(f"line {entry.id} replaced {entry.replaced}, champion was {aliases.get('champion')}")
            if entry.replaced:
                aliases["previous"] = entry.replaced
            aliases["champion"] = entry.version
            if aliases.get("candidate") == entry.version:
                del aliases["candidate"]
        elif entry.action == "rollback":
            if (entry.replaced, entry.version) != (aliases["champion"], aliases["previous"]):
                raise ValueError(f"line {entry.id} does not swap champion and previous")
            aliases["champion"], aliases["previous"] = entry.version, aliases["champion"]
    return aliases


def _check(registry: Registry, history: list[HistoryEntry], folder: Path) -> Iterator[str]:
    from cascade.errors import RegistryError
    from promotion.files import folder_digest

    try:
        if replay(history) != registry.aliases():
            yield "the aliases are not what the history implies"
    except ValueError as error:
        yield str(error)
    if [entry.id for entry in history] != list(range(1, len(history) + 1)):
        yield "the history has gaps"
    for version in registry.versions():
        try:
            registry.resolve(version.id)
        except RegistryError as error:
            yield str(error)
        if registry.card(version.id) != f"# {version.id}":
            yield f"{version.id} has no card"
    for path in (folder / "registry" / "adapters").iterdir():
        if not path.name.startswith(".incoming-") and folder_digest(path) != path.name:
            yield f"{path.name} is not whole"


class _Reader(threading.Thread):
    """Resolves and loads champion and previous as long as writers are killed."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder, self._done = folder, threading.Event()
        self.seen: set[str] = set()
        self.broken: list[str] = []
        self.n = 0

    def run(self) -> None:
        from safetensors.numpy import load_file

        registry = _open(self._folder)
        while not self._done.is_set():
            try:
                for alias in ("champion", "previous"):
                    version = registry.resolve(alias)
                    assert version.adapter is not None
                    if not load_file(version.adapter / "adapter_model.safetensors"):
                        self.broken.append(f"{version.id} loads empty")
                    self.seen.add(version.id)
                self.n += 1
            except Exception as error:  # whatever it is, a reader must never see it
                self.broken.append(repr(error))
        registry.close()

    def stop(self) -> None:
        self._done.set()
        self.join()


def _kill(folder: Path, kills: int, at_once: int, rng: random.Random) -> Generator[str, None, None]:
    """Start writers and SIGKILL each at a random moment; yields what each had done last."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", WRITERS, str(folder)]
    with subprocess.Popen(
        command, text=True, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        try:
            for first in range(0, kills, at_once):
                writers = range(first, min(first + at_once, kills))
                pids = []
                for writer in writers:
                    parent.stdin.write(f"{writer}\n")
                    parent.stdin.flush()
                    pids.append(int(parent.stdout.readline()))
                for writer, pid in zip(writers, pids, strict=True):
                    log = folder / f"done-{writer}"
                    _wait_for_steps(log, rng.randrange(4))
                    time.sleep(rng.uniform(0.0, 0.05))
                    os.kill(pid, signal.SIGKILL)
                    lines = log.read_text().splitlines()
                    yield lines[-1].split()[0] if lines else "start"
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


def _wait_for_steps(path: Path, steps: int) -> None:
    while not path.exists() or path.read_text().count("\n") < steps:
        if list(path.parent.glob("failed-*")):
            return
        time.sleep(0.002)


def _open(folder: Path) -> Registry:
    from promotion.registry import Registry

    return Registry(f"sqlite:///{folder / 'registry.db'}", folder / "registry")


def _adapter(folder: Path, content: bytes) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir()
    save_file({"lora_A": np.frombuffer(content * 64, np.uint8)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")


def main(argv: list[str] | None = None) -> int:
    """Kill writers and print what was left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=240)
    parser.add_argument("--at-once", type=int, default=3, help="writers at the same time (default 3)")
    parser.add_argument("--seed", type=int, default=17)
    options = parser.parse_args(argv)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = kill_writers(options.kills, Path(folder), at_once=options.at_once, seed=options.seed)
    print("| what | found |\n|---|---|")
    kinds = ", ".join(f"{count} after {kind}" for kind, count in sorted(found.kinds.items()))
    print(f"| kills | {found.kills} ({kinds}) |")
    print(f"| reads of both aliases meanwhile, files loaded | {found.reads} ({found.champions_seen} versions seen) |")
    print(f"| changes that a writer was told of / lines of history | {found.acknowledged} / {found.lines} |")
    print(f"| problems | {len(found.problems)} |")
    print(f"| seconds | {time.perf_counter() - started:.0f} |")
    for problem in found.problems[:20]:
        print(problem)
    print(f"\nmade by: python -m benchmarks.kill_registry --kills {options.kills}")
    return 1 if found.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
