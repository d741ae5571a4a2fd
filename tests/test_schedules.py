"""The loop on its own, on a real server: schedules that stay, one run at a time, a drift alarm that starts one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from labworld import ROOT
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments import run_deployment
from prefect.events import DeploymentTriggerTypes
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_world import at_server, emit_at, runs_of, until
from pydantic import TypeAdapter

from cascade.errors import ConfigError
from flows.config import read_yaml
from flows.deployments import (
    DRIFT_EVENT,
    Schedules,
    build_deployments,
    drift_resource,
    local_server,
    require_server,
    times,
)

pytestmark = pytest.mark.timeout(600)
NOBODY = "http://127.0.0.1:9/api"
NEVER_NOW = "0 3 1 1 *"  # the first of January
OVER = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


def config_file(folder: Path, name: str) -> Path:
    """A valid configuration without traces: its runs end at once, with a sentence that says so."""
    values = read_yaml(ROOT / "configs/production.yaml")
    values |= {"name": name, "state": str(folder / "state"), "runs": str(folder / "runs")}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@contextmanager
def serving(url: str, config: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`serve-flows` in a process of its own, stopped as a service manager stops it."""
    command = [sys.executable, "-m", "flows.cli", "serve-flows", "-c", str(config), *options]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PREFECT_API_URL": url}, text=True, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def states(runs: list[Any]) -> list[str]:
    return [run.state_type.value for run in runs]


def test_schedules_survive_and_one_run_goes_at_a_time(prefect_server: str, tmp_path: Path) -> None:
    config = config_file(tmp_path, "alone")
    due = build_deployments(config_file(tmp_path, "due"), "due", Schedules(improve="* * * * *"))[0]
    with at_server(prefect_server) as client:
        due.apply()  # its next run comes due while nothing is served
        with serving(prefect_server, config, "--improve-cron", NEVER_NOW):
            scheduled = until(lambda: _scheduled(client, "improve/alone"), "a scheduled run")
        # The scheduler is gone. What it scheduled is not, and is not paused.
        found = client.read_deployment_by_name("improve/alone")
        assert not found.paused and [entry.active for entry in found.schedules] == [True]
        assert _scheduled(client, "improve/alone") == scheduled

        # Two triggers at once, while it is away: one run and no more when it is back.
        for _ in range(2):
            run_deployment("improve/alone", timeout=0, as_subflow=False)
        with serving(prefect_server, config, "--improve-cron", NEVER_NOW):
            asked = until(lambda: _over(client, "improve/alone", 2), "the end of both runs")
            assert sorted(states(asked)) == ["CANCELLED", "FAILED"]
            cancelled, ran = sorted(asked, key=lambda run: run.state_type.value)
            assert cancelled.state.message == "Deployment concurrency limit reached."
            assert cancelled.run_count == 0
            assert "no traces in" in ran.state.message
            assert ran.name.startswith("improve-20") and ran.name.endswith(str(ran.id)[-6:])
            until(lambda: _scheduled(client, "improve/alone") == scheduled, "the next run, still scheduled")

            # A drift alarm of this configuration starts a run; another's does not.
            emit_at(prefect_server, DRIFT_EVENT, drift_resource("another"))
            emit_at(prefect_server, DRIFT_EVENT, drift_resource("alone"))
            started = until(lambda: _over(client, "improve/alone", 3), "the run that the alarm starts")[-1]
            assert "no traces in" in started.state.message
            assert started.created_by is not None and started.created_by.type == "AUTOMATION"
        assert len(_over(client, "improve/alone", 3) or []) == 3

        late = until(lambda: [r for r in runs_of(client, "improve/due") if r.state_name == "Late"], "a late run")[0]
        due.apply()  # the next start
        assert client.read_flow_run(late.id).state_type.value == "SCHEDULED", "what came due meanwhile is kept"


def _scheduled(client: Any, deployment: str) -> list[Any]:
    """Times for which the schedule has runs waiting."""
    return [r.expected_start_time for r in runs_of(client, deployment) if r.auto_scheduled and not r.start_time]


def _over(client: Any, deployment: str, n: int) -> list[Any] | None:
    """The runs that were asked for by hand or by an alarm, once `n` of them are over."""
    asked = [run for run in runs_of(client, deployment) if not run.auto_scheduled]
    return asked if len(asked) >= n and all(state in OVER for state in states(asked)) else None


def test_the_deployments_of_prefect_yaml_fit_their_flows() -> None:
    """Read by Prefect's own models: entrypoints resolve, parameters fit the flows, triggers and schedules are valid."""
    read = PrefectYamlModel.model_validate(read_yaml(ROOT / "prefect.yaml"))
    served = {
        made.flow_name: made for made in build_deployments(ROOT / "configs/production.yaml", "production", Schedules())
    }
    assert {(entry.name, entry.entrypoint) for entry in read.deployments} == {
        ("weekly", "flows/scheduled.py:improve"),
        ("manual", "flows/scheduled.py:compare"),
        ("daily", "flows/monitor.py:monitor"),
    }
    for entry in read.deployments:
        path, _, function = str(entry.entrypoint).partition(":")
        flow = load_flow_from_entrypoint(f"{ROOT / path}:{function}")
        flow.validate_parameters(entry.parameters)
        assert (ROOT / entry.parameters["config"]).exists()
        same = served[flow.name]
        limit = ConcurrencyLimitConfig.model_validate(entry.concurrency_limit.model_dump())
        assert (limit.limit, limit.collision_strategy) == (1, ConcurrencyLimitStrategy.CANCEL_NEW)
        assert (limit.limit, limit.collision_strategy) == (
            same.concurrency_limit,
            same.concurrency_options.collision_strategy,
        )
        assert entry.tags == same.tags
        assert [schedule.cron for schedule in entry.schedules or []] == [s.schedule.cron for s in same.schedules or []]
        triggers = [TypeAdapter(DeploymentTriggerTypes).validate_python(trigger) for trigger in entry.triggers or []]
        assert [(t.name, t.expect, t.match) for t in triggers] == [(t.name, t.expect, t.match) for t in same.triggers]


def test_without_a_schedule_a_deployment_waits_for_a_hand(tmp_path: Path) -> None:
    when = Schedules(improve=None, monitor=None, on_drift=False)
    improve, compare, monitor = build_deployments(config_file(tmp_path, "x"), "x", when)
    assert [entry.active for entry in (*(improve.schedules or []), *(monitor.schedules or []))] == [False, False]
    assert {times(made) for made in (improve, compare, monitor)} == {"by hand"}
    assert improve.triggers == []


@pytest.mark.parametrize("wrong", [Schedules(improve="0 3 * *"), Schedules(timezone="Mars")])
def test_a_wrong_schedule_is_named(wrong: Schedules) -> None:
    with pytest.raises(ConfigError, match=r"the schedule of improve is '0 3.*give five fields of cron"):
        build_deployments(ROOT / "configs/demo.yaml", "demo", wrong)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "PREFECT_API_URL is not set: add --with-server"),
        ({PREFECT_API_URL: NOBODY}, "no Prefect server answers at"),
    ],
)
def test_without_a_server_one_sentence_says_how_to_start_one(settings: dict[Any, str], sentence: str) -> None:
    with (
        temporary_settings(settings, restore_defaults={PREFECT_API_URL}),
        pytest.raises(ConfigError, match=f"{sentence}.*prefect server start"),
    ):
        require_server()


def test_a_server_that_is_there_is_used_and_left_running(prefect_server: str) -> None:
    port = int(prefect_server.rsplit(":", 1)[1].split("/", maxsplit=1)[0])
    with local_server(port) as url:
        assert url == prefect_server
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        assert require_server() == prefect_server
