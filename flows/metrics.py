"""A look as Prometheus metrics: a file for node-exporter's textfile collector, or an endpoint of its own."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flows.rundir import write_bytes
from monitoring.records import Cause, Status, Watch

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PREFIX = "cascade_distill"


def registry_of(watch: Watch) -> CollectorRegistry:
    """One look's gauges. Rates and shares are 0..1; a check that cannot tell has no value, and its own status."""
    from prometheus_client import CollectorRegistry, Gauge

    registry = CollectorRegistry()

    def gauge(name: str, says: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", says, ("cascade", *labels), registry=registry)

    value = gauge("check_value", "What the check measured.", "check", "bound")
    bar = gauge("check_bar", "Where the check's alarm begins.", "check")
    alarm = gauge("check_alarm", "1 when the check fired.", "check")
    known = gauge("check_known", "0 when the check had too little to tell.", "check")
    for check in watch.checks:
        labels = (watch.name, str(check.name))
        alarm.labels(*labels).set(check.status is Status.ALARM)
        known.labels(*labels).set(check.status is not Status.UNKNOWN)
        if check.bar is not None:
            bar.labels(*labels).set(check.bar)
        for bound, number in (("value", check.value), ("low", check.low), ("high", check.high)):
            if number is not None:
                value.labels(*labels, bound).set(number)
    cause = gauge("finding", "1 while this is behind an alarm.", "cause")
    found = {finding.cause for finding in watch.findings}
    for each in Cause:
        cause.labels(watch.name, str(each)).set(each in found)
    gauge("queries", "Queries looked at.").labels(watch.name).set(watch.n)
    newest = gauge("newest_trace_timestamp_seconds", "Time of the newest trace.")
    newest.labels(watch.name).set(datetime.fromisoformat(watch.at).timestamp())
    gauge("version_info", "1 for the version in service.", "version").labels(watch.name, watch.version).set(1)
    return registry


def write_metrics(path: Path, watch: Watch) -> None:
    """The metrics as a text file, whole or not at all."""
    from prometheus_client import generate_latest

    write_bytes(path, generate_latest(registry_of(watch)))


class MetricsServer:
    """Serves the newest look under /metrics, on a thread."""

    def __init__(self, port: int, watch: Watch, host: str = "0.0.0.0") -> None:
        from prometheus_client import CollectorRegistry, start_http_server

        self._registry = CollectorRegistry()
        self._newest = registry_of(watch)
        self._registry.register(_Newest(self))  # type: ignore[arg-type]
        self._server, self._thread = start_http_server(port, host, registry=self._registry)

    @property
    def port(self) -> int:
        """Where it listens; of interest when asked for port 0."""
        return int(self._server.server_address[1])

    def show(self, watch: Watch) -> None:
        """Replace what is served."""
        self._newest = registry_of(watch)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Newest:
    def __init__(self, server: MetricsServer) -> None:
        self._server = server

    def collect(self) -> object:
        yield from self._server._newest.collect()
