"""The simulated weeks' way to a Prefect server: real deployments asked, the automation's run followed to its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL
from prefect_world import emit_at
from test_schedules import config_file

from benchmarks.eight_weeks_server import deployed
from flows.alarms import DRIFT_EVENT, drift_resource

pytestmark = pytest.mark.timeout(600)


def test_looks_and_runs_are_the_deployments_and_say_why_they_fail(tmp_path: Path, monkeypatch) -> None:
    """There are no traces, so that both flows end at once, with the sentence that says so."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    config = config_file(tmp_path, "weeks")
    with deployed(config, "weeks", tmp_path / "prefect") as operator:
        with pytest.raises(RuntimeError, match=r"of monitor/weeks ended as Failed: .*no traces in"):
            operator.look()
        emit_at(str(PREFECT_API_URL.value()), DRIFT_EVENT, drift_resource("weeks"))
        # The run that the automation starts fails; it goes on under its own name, and fails again.
        with pytest.raises(RuntimeError, match=r"flow run improve-20\S+ of improve/weeks ended as Failed: no traces"):
            operator.improve([])
    assert (tmp_path / "prefect").is_dir()
    assert "improve/weeks" in (tmp_path / "serve-flows.log").read_text()
