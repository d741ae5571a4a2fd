"""Making a version serve through the configuration: probes from stored traces, fleet, registry, the way back."""

from __future__ import annotations

import pytest
from labworld import ROOT
from loopback import make_query
from test_rollout import make_adapter
from tiny_student import make_student
from vllm_loopback import BASE, Models, fleet

from cascade.errors import ConfigError, InputError, PromotionConflict, RolloutError
from cascade.trace import Answer, Outcome, Trace, Verdict
from flows.config import build_config, merge, read_yaml
from flows.context import open_state
from flows.deploy import load_candidate, make_probes, promote_version, roll_back
from flows.doctor import _fleet
from flows.serve import cheap_tier

ANSWER = Answer("x", BASE, 10, 5, 0.1, "stop")


def settings(folder, base, servers):
    demo = read_yaml(ROOT / "configs/demo.yaml")
    demo.pop("lab")
    here = {
        "state": str(folder / "state"),
        "runs": str(folder / "runs"),
        "student": {"base_model": str(base), "name": "tiny", "max_new_tokens": 8},
        "cheap": {"model": BASE, "base_url": servers[0].url, "api_key_env": None},
        "rollout": {"replicas": [s.url for s in servers], "timeout_s": 20, "probes": 2, "folder": str(folder / "out")},
        "flagship": {"base_url": "http://127.0.0.1:9/v1"},
        "embed": {"model": "none"},
    }
    return build_config(merge(demo, here), "test")


def with_traces(state, n=6):
    traces = [
        Trace(make_query(i), ANSWER, "v1", Verdict(Outcome.ACCEPT, 0.1, ()), False, False, 0.02, None, 0.001)
        for i in range(n)
    ]
    state.traces.add(traces)
    return state


def test_promotions_through_the_configuration_and_back(tmp_path):
    base = make_student(tmp_path / "base")
    adapters = [make_adapter(base, tmp_path / f"adapter-{i}", i) for i in range(3)]
    with fleet(Models(base)) as servers:
        config = settings(tmp_path, base, servers)
        state = open_state(config)
        registry = state.registry
        plain = registry.register(name="tiny", base_model=str(base), run_id="r0")
        assert promote_version(config, state, plain.id, who="ana", why="first") is None
        versions = [registry.register(name="tiny", base_model=str(base), adapter=a, run_id=str(a)) for a in adapters]
        with pytest.raises(InputError, match="no trace is stored"):
            promote_version(config, state, versions[0].id, who="ana", why="cheaper")
        with_traces(state)
        done = promote_version(config, state, versions[0].id, who="ana", why="cheaper")
        assert done is not None and done.name == versions[0].serving_name
        load_candidate(config, state, versions[2])
        assert registry.aliases()["champion"] == versions[0].id
        promote_version(config, state, versions[1].id, who="ana", why="cheaper", measured_against=versions[0].id)
        both = sorted(v.serving_name for v in versions[:2])
        assert all(sorted(s.names()) == both for s in servers)  # the candidate that came to nothing is gone
        tier = cheap_tier(config, registry.resolve("champion"))
        assert {a.text for a in tier.answer([make_query(1)], progress=False)} == {versions[1].serving_name}
        tier.close()
        with pytest.raises(PromotionConflict, match="was measured against"):
            promote_version(config, state, versions[2].id, who="bo", why="late", measured_against=versions[0].id)
        servers[1].fault = "500"
        with pytest.raises(RolloutError, match="serves on"):
            promote_version(config, state, versions[2].id, who="bo", why="again")
        assert roll_back(config, state, who="bo", why="users complain").id == versions[0].id
        assert all(sorted(s.names()) == both for s in servers)
        assert _fleet(config).count(versions[1].serving_name) == 3
        registry.close()


def test_probes_are_those_that_tell_most(tmp_path):
    base = make_student(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", 1)
    with fleet(Models(base), n=1) as servers:
        config = settings(tmp_path, base, servers)
        queries = [make_query(i, "word " * i) for i in range(1, 7)]
        few = make_probes(config, adapter, queries)
        every = make_probes(config.model_copy(update={"rollout": replace_probes(config, 6)}), adapter, queries)

    def apart(probe):
        return sum(abs(a - b) for a, b in zip(probe.trained, probe.base, strict=True)) / len(probe.trained)

    assert len(few) == 2 and len(every) == 6
    assert few == every[:2]
    assert apart(every[0]) == max(map(apart, every)) > 0
    assert all(len(p.trained) == len(p.ids) - p.n_prompt for p in every)


def replace_probes(config, n):
    return config.rollout.model_copy(update={"probes": n})


def test_a_fleet_needs_to_know_how_it_is_asked(tmp_path):
    values = read_yaml(ROOT / "configs/demo.yaml")
    values.pop("lab")
    here = {
        "student": {"base_model": "x"}, "embed": {"model": "x"}, "flagship": {"base_url": "http://127.0.0.1:9/v1"},
        "rollout": {"replicas": ["http://127.0.0.1:9/v1"]},
    }  # fmt: skip
    with pytest.raises(ConfigError, match="set cheap too"):
        build_config(merge(values, here), "test")
