"""What tests on a real Prefect server share: what it knows, and waiting for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.events import Event, Resource
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

Found = TypeVar("Found")


@contextmanager
def at_server(url: str) -> Iterator[SyncPrefectClient]:
    """A client of the server, which the settings name inside."""
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        yield client


def runs_of(client: SyncPrefectClient, deployment: str) -> list[FlowRun]:
    """Flow runs of a deployment, earliest first; none while there is no such deployment."""
    try:
        found = DeploymentFilter(id=DeploymentFilterId(any_=[client.read_deployment_by_name(deployment).id]))
    except ObjectNotFound:
        return []
    runs = client.read_flow_runs(deployment_filter=found, limit=200)
    return sorted(runs, key=lambda run: run.expected_start_time)


def until(look: Callable[[], Found | None], what: str) -> Found:
    """What `look` returns, once it does: for what another process does in its own time."""
    give_up = time.monotonic() + 240
    while not (found := look()):
        assert time.monotonic() < give_up, f"never came: {what}"
        time.sleep(0.5)
    return found


def emit_at(url: str, event: str, resource: str) -> None:
    """Emit an event at this server. `emit_event` sends all of a process' events to the server that the first one went
    to, and an earlier test may have had another."""
    made = Event(event=event, resource=Resource({"prefect.resource.id": resource}))
    httpx.post(f"{url}/events", json=[made.model_dump(mode="json")], timeout=60).raise_for_status()
