"""A run's window is found in any store without reading the traces."""

import pytest
from databases import STORES, place
from test_forget import settings
from test_store import DAY, START, at

from cascade.errors import InputError
from flows.config import RunConfig
from flows.context import open_state, start_run
from promotion.clusters import open_history


@pytest.fixture(params=STORES)
def config(request, tmp_path) -> RunConfig:
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    found = settings(tmp_path, place(request.param, tmp_path, server))
    registry = server() if server is not None else None
    return found.model_copy(update={"registry": registry, "window": found.window.model_copy(update={"days": 7.0})})


def test_the_window_ends_at_the_newest_trace(config):
    with pytest.raises(InputError, match="no traces in"):
        start_run(config, "r")
    state = open_state(config)
    state.traces.add([at(n, START + n * DAY) for n in range(20)])
    version = state.registry.register(name="s", base_model="b")
    state.registry.promote(version.id, who="test", why="test")
    ctx = start_run(config, "r")
    assert ctx.since == START + 12 * DAY
    assert [t.query.id for t in ctx.state.traces.between(ctx.since, ctx.until)] == [f"q{n:04d}" for n in range(12, 20)]
    state.traces.add([at(50, START + 50 * DAY)])
    again = start_run(config, "r")
    assert (again.since, again.until, again.champion_id) == (ctx.since, ctx.until, "v1")


def test_a_run_goes_on_where_the_flagship_has_moved(config):
    state = open_state(config)
    state.traces.add([at(n, START + n * DAY) for n in range(20)])
    state.registry.promote(state.registry.register(name="s", base_model="b").id, who="test", why="test")
    first = start_run(config, "r")
    flagship = config.flagship.model_copy(update={"base_url": "http://127.0.0.1:4999/v1", "max_tokens": 7})
    again = start_run(config.model_copy(update={"flagship": flagship}), "r").config.flagship
    assert again.base_url == "http://127.0.0.1:4999/v1"
    assert again.max_tokens == first.config.flagship.max_tokens  # all else is the first start's


def test_the_history_of_clusters_is_in_the_registrys_database(config):
    state = open_state(config)
    state.clusters.record("r", START, "e", [])
    url = config.registry or f"sqlite:///{config.state / 'registry.db'}"
    with open_history(url) as history:
        assert history.runs() == ["r"]
