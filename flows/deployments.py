"""What a Prefect server is told to run, when, and how it is served from one machine.

Of each deployment one run goes at a time: a second one that comes due or is triggered meanwhile is cancelled, not
queued, because it would find the same traces. Schedules outlive the process that serves them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import Flow, serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.schedules import Cron, Schedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.types.entrypoint import EntrypointType

from cascade.errors import ConfigError
from flows import scheduled
from flows.alarms import DRIFT_EVENT, drift_resource
from flows.monitor import monitor

ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
WEEKLY = "0 3 * * 1"
"""Mondays at 03:00."""
DAILY = "0 6 * * *"
"""Every day at 06:00."""
SERVER_STOP_S = 30.0
SERVER_START_S = 300.0
"""A first start makes the database: on a busy machine minutes."""


@dataclass(frozen=True, slots=True)
class Schedules:
    """When the flows run; None: only by hand or by a trigger."""

    improve: str | None = WEEKLY
    """Cron, as minute, hour, day, month, day of the week."""
    monitor: str | None = DAILY
    timezone: str = "UTC"
    on_drift: bool = True
    """Whether a drift alarm starts an improvement run."""


def build_deployments(config: Path, name: str, schedules: Schedules) -> list[RunnerDeployment]:
    """The deployments of one configuration, `name` the configuration's. Raises ConfigError for a bad schedule."""
    triggers = [_drift_trigger(name)] if schedules.on_drift else []
    return [
        _deployment(
            scheduled.improve,
            config,
            name,
            _schedule("improve", schedules.improve, WEEKLY, schedules.timezone),
            triggers,
        ),
        _deployment(scheduled.compare, config, name),
        _deployment(monitor, config, name, _schedule("monitor", schedules.monitor, DAILY, schedules.timezone)),
    ]


def _deployment(
    flow: Flow[..., Any],
    config: Path,
    name: str,
    schedule: Schedule | None = None,
    triggers: Sequence[DeploymentEventTrigger] = (),
) -> RunnerDeployment:
    made = flow.to_deployment(
        name,
        schedule=schedule,
        parameters={"config": str(config.resolve())},
        concurrency_limit=ONE_AT_A_TIME,
        triggers=list(triggers),
        tags=["cascade-distill", name],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(made, RunnerDeployment)  # a coroutine inside of an event loop
    return made


def times(deployment: RunnerDeployment) -> str:
    """When a deployment runs, for people."""
    crons = [entry.schedule.cron for entry in deployment.schedules or [] if isinstance(entry.schedule, CronSchedule)]
    active = all(entry.active for entry in deployment.schedules or [])
    return ", ".join(crons) if crons and active else "by hand"


def _schedule(flow: str, cron: str | None, usual: str, timezone: str) -> Schedule:
    """The flow's cron; its usual one, inactive, where it has none.

    It has a slug, by which the server knows it again: else each start would replace it, and drop the runs that came due
    while nothing was served.
    """
    try:
        CronSchedule(cron=cron or usual, timezone=timezone)
    except ValueError:
        raise ConfigError(
            f"the schedule of {flow} is {cron!r} in time zone {timezone!r}: give five fields of cron, as"
            f" {usual!r}, and a zone as Europe/Paris"
        ) from None
    return Cron(cron or usual, timezone=timezone, active=cron is not None, slug=flow)


def _drift_trigger(name: str) -> DeploymentEventTrigger:
    return DeploymentEventTrigger(
        name=f"{name}: improve when the drift alarm fires",
        description="Made by cascade-distill serve-flows, and made anew by it.",
        expect={DRIFT_EVENT},
        match={"prefect.resource.id": drift_resource(name)},
    )


def serve_deployments(deployments: Sequence[RunnerDeployment], url: str) -> None:
    """Register the deployments with the server at `url` and run what comes due, until the process is told to stop.

    The schedules stay active when it stops: what came due meanwhile is run at the next start.
    """
    os.environ["PREFECT_API_URL"] = url  # for the processes that run the flows
    with temporary_settings({PREFECT_API_URL: url}):
        serve(*deployments, pause_on_shutdown=False, print_starting_message=False)


def require_server() -> str:
    """URL of the server that the settings name. Raises ConfigError, saying how to start one, where none answers."""
    url: str | None = PREFECT_API_URL.value()
    if url is None:
        raise ConfigError(
            "schedules need a Prefect server that stays, and PREFECT_API_URL is not set: add --with-server, or run"
            " `prefect server start` elsewhere and export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    problem = _problem(url)
    if problem is not None:
        raise ConfigError(
            f"no Prefect server answers at {url} ({problem}): start it with `prefect server start`, or correct"
            " PREFECT_API_URL"
        )
    return url


def _problem(url: str) -> str | None:
    """Why the server at a URL cannot be used."""
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        found = client.api_healthcheck()
    return None if found is None else " ".join(f"{type(found).__name__}: {found}".split())[:200]


@contextmanager
def local_server(port: int) -> Iterator[str]:
    """A Prefect server of this machine, reachable from it alone; its database is in PREFECT_HOME, and stays.

    A server that runs on the port already is used, and left running. Yields the URL. Raises ConfigError when it does
    not start.
    """
    url = f"http://127.0.0.1:{port}/api"
    if _problem(url) is None:
        yield url
        return
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    # A session of its own: Ctrl-C must reach what is served first, and the server after it.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_until_up(process, url)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(SERVER_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_up(process: subprocess.Popen[bytes], url: str) -> None:
    give_up = time.monotonic() + SERVER_START_S
    while (problem := _problem(url)) is not None:
        if process.poll() is not None:
            raise ConfigError(f"the Prefect server at {url} ended with status {process.returncode}: try another --port")
        if time.monotonic() > give_up:
            raise ConfigError(f"the Prefect server at {url} did not answer in {SERVER_START_S:.0f} s ({problem})")
        time.sleep(0.5)
