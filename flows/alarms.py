"""Who is told of an alarm, and how: a webhook, a Prefect notification block, a Prefect event that starts a run.

An alarm is told once, and again after some days while it stays. A channel that does not answer is one warning: a
monitor must not fall silent because somebody's chat did.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any

from flows.rundir import read_json, write_json
from monitoring.policy import MonitorPolicy
from monitoring.records import Finding, Watch

EVENT = "cascade-distill.drift"
"""Emitted for what an improvement run cures; its resource is `cascade-distill.<name of the configuration>`."""
TIMEOUT_S = 10.0


def untold(folder: Path, watch: Watch, policy: MonitorPolicy) -> list[Finding]:
    """Findings of which nobody was told, or not for `remind_days`."""
    before = _told(folder)
    at = datetime.fromisoformat(watch.at)
    return [
        finding
        for finding in watch.findings
        if (last := before.get(_key(watch, finding))) is None
        or at - datetime.fromisoformat(last) >= timedelta(days=policy.remind_days)
    ]


def mark_told(folder: Path, watch: Watch, told: Sequence[Finding]) -> None:
    """Remember what was told; what is no longer found is forgotten, so that it is told when it comes back."""
    before, open_ones = _told(folder), {_key(watch, finding) for finding in watch.findings}
    kept = {key: time for key, time in before.items() if key in open_ones}
    write_json(folder / "told.json", kept | {_key(watch, finding): watch.at for finding in told})


def _told(folder: Path) -> dict[str, str]:
    path = folder / "told.json"
    return dict(read_json(path)) if path.exists() else {}


def _key(watch: Watch, finding: Finding) -> str:
    return f"{watch.version}: {finding.cause}"


def tell(watch: Watch, findings: Sequence[Finding], policy: MonitorPolicy) -> list[str]:
    """Send findings through every channel that is set up. Returns one warning per channel that failed."""
    if not findings:
        return []
    warnings = []
    if os.environ.get(policy.webhook_env):
        warnings.append(_post(watch, findings, policy))
    if policy.notify_block is not None:
        warnings.append(_through_block(watch, findings, policy.notify_block))
    warnings.append(_emit(watch, findings))
    return [warning for warning in warnings if warning is not None]


def message(watch: Watch, findings: Sequence[Finding]) -> str:
    """An alarm in words."""
    lines = [f"cascade-distill {watch.name} ({watch.version}), {watch.at[:10]}"]
    for finding in findings:
        lines.append(f"- {finding.cause}, since the week of {finding.began}. {finding.evidence}. Do: {finding.action}.")
    return "\n".join(lines)


def payload(watch: Watch, findings: Sequence[Finding]) -> dict[str, Any]:
    """An alarm as data: what a webhook and an event carry."""
    rows = [
        {
            "cause": str(finding.cause),
            "began": finding.began.isoformat(),
            "checks": [str(name) for name in finding.checks],
            "evidence": finding.evidence,
            "action": finding.action,
        }
        for finding in findings
    ]
    return {"name": watch.name, "version": watch.version, "at": watch.at, "findings": rows}


def _post(watch: Watch, findings: Sequence[Finding], policy: MonitorPolicy) -> str | None:
    """POST to the webhook. `text` is what Slack, Mattermost and their like show."""
    body = json.dumps({"text": message(watch, findings), **payload(watch, findings)}).encode()
    # Neither the URL nor an error that quotes it is shown: it may hold a secret.
    problem = f"the webhook of {policy.webhook_env} was not told: "
    try:
        request = urllib.request.Request(
            os.environ[policy.webhook_env], body, {"Content-Type": "application/json"}, method="POST"
        )
        if request.type not in ("http", "https"):
            return f"{problem}it is not an http or https URL"
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
            good = HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES
            return None if good else f"{problem}it answered {reply.status}"
    except urllib.error.HTTPError as error:
        return f"{problem}it answered {error.code}"
    except (OSError, ValueError, HTTPException) as error:
        return f"{problem}{type(getattr(error, 'reason', None) or error).__name__}"


def _through_block(watch: Watch, findings: Sequence[Finding], name: str) -> str | None:
    from prefect.blocks.core import Block

    try:
        block: Any = Block.load(name)
        block.notify(message(watch, findings), f"cascade-distill {watch.name}: {findings[0].cause}")
    except Exception as error:  # blocks raise what their services' libraries raise
        return f"the notification block {name} was not told: {type(error).__name__}"
    return None


def _emit(watch: Watch, findings: Sequence[Finding]) -> str | None:
    """The event that an automation waits for; only where a Prefect server is configured to receive it."""
    from prefect.settings import PREFECT_API_URL

    curable = [finding for finding in findings if finding.improvable]
    if not curable or PREFECT_API_URL.value() is None:
        return None
    from prefect.client.orchestration import get_client
    from prefect.events import emit_event

    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()  # an event to a server that is down is lost without a word
    if problem is not None:
        return f"the event {EVENT} was not sent, no Prefect server answers at PREFECT_API_URL: {type(problem).__name__}"
    resource = {"prefect.resource.id": f"cascade-distill.{watch.name}", "prefect.resource.name": watch.name}
    sent = emit_event(EVENT, resource, payload=payload(watch, curable))
    return None if sent is not None else f"the event {EVENT} was not sent: Prefect's own log says why"
