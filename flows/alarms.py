"""Who is told of an alarm, and how: a webhook, a Prefect notification block, a Prefect event that starts a run.

An alarm is told once, and again after some days while it stays. A channel that does not answer is one warning: a
monitor must not fall silent because somebody's chat did.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any

from flows.rundir import read_json, write_json
from monitoring.policy import MonitorPolicy
from monitoring.records import Finding, Watch

DRIFT_EVENT = "cascade-distill.drift"
"""Emitted for what an improvement run cures; its resource is `cascade-distill.<name of the configuration>`."""
TIMEOUT_S = 10.0
READER, EVENT = "reader", "event"
SINCE = "since"
"""Beside the channels in `told.json`: the first look of those in a row that found it."""


Send = Callable[[Watch, Sequence[Finding], MonitorPolicy], str | None]
"""Tells of findings; returns a warning where it could not."""


def drift_resource(name: str) -> str:
    """The resource that a drift alarm is about: the configuration of that name."""
    return f"cascade-distill.{name}"


def tell(folder: Path, watch: Watch, policy: MonitorPolicy) -> tuple[list[Finding], list[str]]:
    """Tell every channel of what it was not told, or not for `remind_days`.

    Returns the findings that are news, and one warning per channel that failed: it is tried again at the next look,
    and the others are not told twice. What is no longer found is forgotten, so that it is told when it comes back. The
    event, which starts a run, waits until a finding has stood for `improve_after_days`.
    """
    path = folder / "told.json"
    before: dict[str, dict[str, str]] = read_json(path) if path.exists() else {}
    since = {str(f.cause): before.get(SINCE, {}).get(f.cause, watch.at) for f in watch.findings}
    after: dict[str, dict[str, str]] = {SINCE: since}
    news: dict[str, list[Finding]] = {}
    warnings = []
    for name, send in _channels(policy).items():
        known = before.get(name, {})
        least = policy.improve_after_days if name == EVENT else 0.0
        stood = [finding for finding in watch.findings if _days(since[finding.cause], watch.at) >= least]
        news[name] = [finding for finding in stood if _is_news(finding, known, watch, policy)]
        warning = send(watch, news[name], policy) if news[name] else None
        told = {str(finding.cause): watch.at for finding in news[name]} if warning is None else {}
        after[name] = {str(f.cause): known[f.cause] for f in watch.findings if f.cause in known} | told
        warnings += [] if warning is None else [warning]
    write_json(path, after)
    return news[READER], warnings


def _is_news(finding: Finding, known: Mapping[str, str], watch: Watch, policy: MonitorPolicy) -> bool:
    last = known.get(str(finding.cause))
    return last is None or _days(last, watch.at) >= policy.remind_days


def _days(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)) / timedelta(days=1)


def _channels(policy: MonitorPolicy) -> dict[str, Send]:
    """Those that are set up. Whoever reads what the look prints is one."""
    found: dict[str, Send] = {READER: lambda watch, findings, policy: None, EVENT: _emit}
    if os.environ.get(policy.webhook_env):
        found["webhook"] = _post
    if policy.notify_block is not None:
        found["block"] = _through_block
    return found


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


def _through_block(watch: Watch, findings: Sequence[Finding], policy: MonitorPolicy) -> str | None:
    from prefect.blocks.core import Block

    name = policy.notify_block or ""
    try:
        block: Any = Block.load(name)
        block.notify(message(watch, findings), f"cascade-distill {watch.name}: {findings[0].cause}")
    except Exception as error:  # blocks raise what their services' libraries raise
        return f"the notification block {name} was not told: {type(error).__name__}"
    return None


def _emit(watch: Watch, findings: Sequence[Finding], policy: MonitorPolicy) -> str | None:
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
        why = f"no Prefect server answers at PREFECT_API_URL: {type(problem).__name__}"
        return f"the event {DRIFT_EVENT} was not sent, {why}"
    resource = {"prefect.resource.id": drift_resource(watch.name), "prefect.resource.name": watch.name}
    sent = emit_event(DRIFT_EVENT, resource, payload=payload(watch, curable))
    return None if sent is not None else f"the event {DRIFT_EVENT} was not sent: Prefect's own log says why"
