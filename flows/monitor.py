"""The Prefect flow `monitor`: one look, its dashboard and metrics, and those who are to be told.

Prefect adds artifacts and the event that starts `improve`; the look itself is a plain function.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact, create_table_artifact

from flows.context import open_run, open_state
from flows.look import look_once
from flows.monitor_page import check_rows
from flows.world import open_config


@flow(name="monitor", persist_result=False)
def monitor(config: str, run_id: str | None = None, notify: bool = True) -> dict[str, Any]:
    """One look at the cascade of a configuration file (or of the state that a demo run left).

    Returns {"alarms": [names of checks], "causes": [...], "improve": whether a run is the cure, "dashboard": path}.
    An alarm is a result, not a failure: the flow ends well.
    """
    with open_config(Path(config)) as opened:
        settings = opened.config
        state = open_run(settings.runs / run_id).state if run_id else open_state(settings)
        done = look_once(settings, state, notify=notify)
    create_table_artifact(key="monitor", table=check_rows(done.watch), description="What has changed")
    create_link_artifact(key="dashboard", link=done.dashboard.resolve().as_uri(), link_text="Dashboard")
    for warning in done.warnings:
        print(f"cascade-distill: {warning}")
    return {
        "alarms": [str(check.name) for check in done.watch.alarms],
        "causes": [str(finding.cause) for finding in done.watch.findings],
        "improve": any(finding.improvable for finding in done.watch.findings),
        "dashboard": str(done.dashboard),
    }
