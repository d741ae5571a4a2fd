"""Who looks and who improves: the deployments of `serve-flows` on a Prefect server of their own, or this process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

    from flows.config import RunConfig

OVER = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
LONGEST_S = 1800.0
"""A look takes seconds, an improvement run minutes: what takes longer than this never ends."""
Found = TypeVar("Found")


class Operator(Protocol):
    """Looks at the cascade, and improves it when an alarm asks for it."""

    def look(self) -> float:
        """One look; it leaves watch.json and told.json in the state folder. Returns its seconds."""

    def improve(self, known: Collection[str]) -> tuple[str, str]:
        """The run that the alarm has started and that is not among `known`, to its end: its name, and who started
        it."""


class InProcess:
    """The same flows called in this process: no server, no automation."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    def look(self) -> float:
        """One look."""
        from flows.context import open_state
        from flows.look import look_once

        begun = time.perf_counter()
        look_once(self.config, open_state(self.config))
        return time.perf_counter() - begun

    def improve(self, known: Collection[str]) -> tuple[str, str]:
        """The flow, called."""
        from flows.improve import improve

        run_id = f"alarm-{len(known) + 1}"
        improve(self.config, run_id)
        return run_id, "this process"


class Deployed:
    """The deployments `monitor/<name>` and `improve/<name>`, run by the server."""

    def __init__(self, client: SyncPrefectClient, name: str) -> None:
        self._client, self._name = client, name
        for flow in ("monitor", "improve"):
            until(lambda flow=flow: self._id(flow), f"the deployment {flow}/{name}")  # type: ignore[misc]

    def look(self) -> float:
        """A flow run of the monitor's deployment. Raises RuntimeError, with its message, where it failed."""
        begun = time.perf_counter()
        self._run("monitor", {})
        return time.perf_counter() - begun

    def improve(self, known: Collection[str]) -> tuple[str, str]:
        """Wait for the flow run that the automation made of the drift event. One that a stop of this program cut short
        goes on as a flow run of the same deployment, in the run's own folder."""
        started = until(lambda: self._started(known), "a flow run that the automation starts")
        ended = self._end(started)
        if ended.state_type is not None and ended.state_type.value != "COMPLETED":
            print(f"{ended.name}: {ended.state_name}, {_message(ended)}; goes on", file=sys.stderr)
            self._run("improve", {"run_id": ended.name})
        return ended.name, str(ended.created_by.display_value if ended.created_by else "")

    def _run(self, flow: str, parameters: dict[str, Any]) -> FlowRun:
        from prefect.deployments import run_deployment

        name = f"{flow}/{self._name}"
        asked: Any = run_deployment(name, parameters=parameters, timeout=0, as_subflow=False)
        ended = self._end(asked)
        if ended.state_type is None or ended.state_type.value != "COMPLETED":
            raise RuntimeError(f"flow run {ended.name} of {name} ended as {ended.state_name}: {_message(ended)}")
        return ended

    def _end(self, run: FlowRun) -> FlowRun:
        def over() -> FlowRun | None:
            found = self._client.read_flow_run(run.id)
            return found if found.state_type is not None and found.state_type.value in OVER else None

        return until(over, f"the end of {run.name}")

    def _started(self, known: Collection[str]) -> FlowRun | None:
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

        mine = DeploymentFilter(id=DeploymentFilterId(any_=[self._id("improve")]))
        runs = self._client.read_flow_runs(deployment_filter=mine, limit=200)
        by_alarm = [run for run in runs if run.created_by is not None and run.created_by.type == "AUTOMATION"]
        # A flow run has the name of its run once it has started.
        new = [run for run in by_alarm if run.start_time is not None and run.name not in known]
        return new[0] if new else None

    def _id(self, flow: str) -> Any:
        from prefect.exceptions import ObjectNotFound

        try:
            return self._client.read_deployment_by_name(f"{flow}/{self._name}").id
        except ObjectNotFound:
            return None


@contextmanager
def deployed(config: Path, name: str, home: Path) -> Iterator[Deployed]:
    """A Prefect server whose database is in `home`, and `cascade-distill serve-flows` of a configuration beside it.

    The schedules are inactive: the simulated calendar is not the machine's, so each look is asked for when its day is
    over. The automation is the real one.
    """
    from flows.deployments import local_server

    os.environ["PREFECT_HOME"] = str(home.resolve())  # of the server that is started
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with local_server(port) as url, _served(config, url), _client(url) as client:
        _bury(client)
        yield Deployed(client, name)


@contextmanager
def _served(config: Path, url: str) -> Iterator[None]:
    command = [sys.executable, "-m", "flows.cli", "serve-flows", "--config", str(config)]
    command += ["--improve-cron", "never", "--monitor-cron", "never"]
    # A run waits for the next poll: ten seconds by default, of which a sped-up day has none to spare.
    environment = {**os.environ, "PREFECT_API_URL": url, "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    with (config.parent / "serve-flows.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


@contextmanager
def _client(url: str) -> Iterator[SyncPrefectClient]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        yield client


def _bury(client: SyncPrefectClient) -> None:
    """Flow runs that a killed start of this program left as running are run by nobody any more."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    running = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=running))):
        client.set_flow_run_state(run.id, Crashed(message="the simulation was stopped"), force=True)


def until(look: Callable[[], Found | None], what: str) -> Found:
    """What `look` returns, once it does. Raises RuntimeError after half an hour."""
    give_up = time.monotonic() + LONGEST_S
    while not (found := look()):
        if time.monotonic() > give_up:
            raise RuntimeError(f"waited {LONGEST_S / 60:.0f} minutes for {what}: see serve-flows.log in the folder")
        time.sleep(0.5)
    return found


def _message(run: FlowRun) -> str:
    return str(run.state.message if run.state is not None else "no state")
