"""What is in service is replaced whole: requests in flight finish on the old, none fails, none sees a mixture."""

import threading
import time
from pathlib import Path

import pytest
from loopback import make_query
from test_rollout import make_adapter
from tiny_student import make_student

from cascade.live import Live
from cascade.local import LocalTier, LocalTierConfig

QUERIES = [make_query(n, f"say {n}") for n in range(4)]


class Key:
    """The alias that moves."""

    def __init__(self, value):
        self.value = value

    def __call__(self):
        return self.value


def test_a_local_model_is_swapped_while_it_answers(tmp_path: Path):
    base = make_student(tmp_path / "base")
    adapters = {f"v{i}": make_adapter(base, tmp_path / f"v{i}", i) for i in (1, 2, 3)}

    def load(version):
        config = LocalTierConfig(base_model=str(base), name=version, adapter=adapters[version], max_new_tokens=6)
        return version, LocalTier(config)

    right = {v: [a.text for a in load(v)[1].answer(QUERIES, progress=False)] for v in adapters}
    assert len({tuple(texts) for texts in right.values()}) == 3
    key, seen, wrong, stop = Key("v1"), [], [], threading.Event()
    live = Live(key, load, background=True)

    def client():
        while not stop.is_set():
            version, tier = live()
            texts = [answer.text for answer in tier.answer(QUERIES, progress=False)]
            seen.append(version)
            if texts != right[version]:
                wrong.append((version, texts))

    threads = [threading.Thread(target=client) for _ in range(2)]
    for thread in threads:
        thread.start()
    for version in ("v2", "v3", "v1"):
        key.value = version
        while live()[0] != version:
            live.wait()
        count = len(seen)
        while len(seen) < count + 4:
            time.sleep(0.005)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert set(seen) == {"v1", "v2", "v3"}


def test_the_old_value_serves_until_the_new_one_is_there():
    key, may_load = Key("a"), threading.Event()

    def make(name):
        if name != "a":
            may_load.wait()
        return name.upper()

    live = Live(key, make, background=True)
    key.value = "b"
    assert [live() for _ in range(5)] == ["A"] * 5
    may_load.set()
    live.wait()
    assert live() == "B"


def test_in_the_foreground_the_caller_waits():
    key = Key("a")
    live = Live(key, str.upper)
    key.value = "b"
    assert live() == "B"


@pytest.mark.parametrize("background", [True, False])
def test_what_cannot_be_made_is_told_and_the_old_stays(background, caplog):
    key = Key("a")
    made = []

    def make(name):
        made.append(name)
        if name == "bad":
            raise ValueError("no such adapter")
        return name

    live = Live(key, make, background=background)
    key.value = "bad"
    for _ in range(5):
        assert live() == "a"
        live.wait()
    assert made == ["a", "bad"]  # not tried again and again
    assert str(live.failure) == "no such adapter"
    assert caplog.text.count("bad cannot be put in service, a stays: no such adapter") == 1
    key.value = "good"
    live()
    live.wait()
    assert live() == "good"
    assert live.failure is None
