"""The history of clusters in the registry's database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from cascade.errors import RegistryError
from clustering.lineage import ClusterState, Known
from promotion.clusters import ClusterHistory, Sighting
from promotion.registry import Registry

WEEK1 = datetime(2026, 3, 9, tzinfo=UTC)
WEEK2 = WEEK1 + timedelta(days=7)


@pytest.fixture
def history(tmp_path):
    made = ClusterHistory(f"sqlite:///{tmp_path / 'registry.db'}")
    yield made
    made.close()


def sighting(uid, state=ClusterState.NEW, size=10, solved=False):
    centroid = np.array([0.6, 0.8], np.float32)
    known = Known(uid, f"name {uid}", state, solved, frozenset({"aa", "bb"}), centroid, 0.7)
    cluster = None if state is ClusterState.SOLVED else 0
    return Sighting(uid, state, cluster, known.name, size, 0.5, "because", known)


def test_what_is_recorded_comes_back(history):
    history.record("one", WEEK1, "m", [sighting("c-0002"), sighting("c-0001")])
    found = history.sightings("one")
    assert [s.uid for s in found] == ["c-0002", "c-0001"], "in the order of recording"
    assert (found[0].state, found[0].size, found[0].cost_usd, found[0].why) == (ClusterState.NEW, 10, 0.5, "because")
    assert found[0].known.members == {"aa", "bb"}
    assert np.allclose(found[0].known.centroid, [0.6, 0.8])
    assert history.sightings("other") == []


def test_a_later_run_knows_the_newest_of_each(history):
    history.record("one", WEEK1, "m", [sighting("c-0001"), sighting("c-0002")])
    history.record("two", WEEK2, "m", [sighting("c-0001", ClusterState.SOLVED, 0, solved=True), sighting("c-0003")])
    known, number = history.known_before("three", WEEK2 + timedelta(days=7), "m")
    assert {k.uid: (str(k.state), k.solved) for k in known} == {
        "c-0001": ("solved", True),
        "c-0002": ("new", False),
        "c-0003": ("new", False),
    }
    assert number == 4
    assert history.first_seen() == {"c-0001": "one", "c-0002": "one", "c-0003": "two"}


def test_an_old_window_run_again_does_not_look_into_its_future(history):
    history.record("one", WEEK1, "m", [sighting("c-0001")])
    history.record("two", WEEK2, "m", [sighting("c-0001"), sighting("c-0002")])
    known, number = history.known_before("one", WEEK1, "m")
    assert (known, number) == ([], 3), "no name is given twice"
    again, _ = history.known_before("late", WEEK1, "m")
    assert [k.uid for k in again] == ["c-0001"], "of two runs over one window the first is the earlier"


def test_a_run_that_is_started_again_replaces_its_own(history):
    history.record("one", WEEK1, "m", [sighting("c-0001"), sighting("c-0002")])
    history.record("same", WEEK1, "m", [sighting("c-0001")])
    history.record("one", WEEK1, "m", [sighting("c-0001")])
    assert [s.uid for s in history.sightings("one")] == ["c-0001"]
    assert history.runs() == ["one", "same"], "and keeps its place"


def test_another_embedder_begins_anew_but_gives_no_id_twice(history):
    history.record("one", WEEK1, "m", [sighting("c-0001")])
    assert history.known_before("two", WEEK2, "another") == ([], 2)


def test_it_lives_beside_the_registry(tmp_path):
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    registry, history = Registry(url, tmp_path), ClusterHistory(url)
    history.record("one", WEEK1, "m", [sighting("c-0001")])
    assert registry.versions() == []
    registry.close()
    history.close()


def test_a_database_that_cannot_be_opened_is_one_sentence(tmp_path):
    with pytest.raises(RegistryError, match="cannot open the cluster history"):
        ClusterHistory(f"sqlite:///{tmp_path / 'no' / 'such' / 'folder' / 'x.db'}")
