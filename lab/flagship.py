"""Run the loopback flagship as a process of its own, from the shell or inside a ``with`` block.

``python -m lab.flagship --answers answers.jsonl --port 0 --ready-file ready.json`` writes {"url", "pid"} to the ready
file once it listens. ``serve_flagship`` does the same from Python and stops the server afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn

from lab.files import write_atomically
from lab.flagship_app import create_app
from lab.flagship_book import AnswerBook, FlagshipOptions, Ledger


class FlagshipError(RuntimeError):
    """The flagship could not be started."""


class _Server(uvicorn.Server):
    """A server that tells, through a file, that it listens."""

    ready_file: Path | None = None
    url: str = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.ready_file is not None:
            write_atomically(self.ready_file, json.dumps({"url": self.url, "pid": os.getpid()}))


@contextmanager
def serve_flagship(
    answers: Path, options: FlagshipOptions | None = None, *, ledger: Path | None = None, start_timeout_s: float = 60.0
) -> Iterator[str]:
    """Start the flagship as a subprocess, yield its base URL (ending in /v1) and stop it at the end.

    The server also exits when this process dies. Raises FlagshipError when it does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="flagship-") as folder:
        ready, log = Path(folder, "ready.json"), Path(folder, "log.txt")
        command = [sys.executable, "-m", "lab.flagship", "--answers", str(answers.resolve())]
        command += ["--ready-file", str(ready), "--exit-with", str(os.getpid())]
        command += ["--options", (options or FlagshipOptions()).model_dump_json()]
        if ledger is not None:
            command += ["--ledger", str(ledger.resolve())]
        with log.open("w") as output:
            process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=output, stderr=output)
        try:
            yield _wait_until_healthy(process, ready, log, start_timeout_s) + "/v1"
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], ready: Path, log: Path, timeout_s: float) -> str:
    """Base URL without /v1, once /health answers."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            last = (log.read_text().strip().splitlines() or ["no output"])[-1]
            raise FlagshipError(f"the flagship exited with status {process.returncode} at its start: {last}")
        if ready.exists():
            url = str(json.loads(ready.read_text())["url"])
            try:
                if httpx.get(url + "/health", timeout=5, trust_env=False).is_success:
                    return url
            except httpx.TransportError:
                pass  # listening, but not yet answering
        time.sleep(0.05)
    raise FlagshipError(f"the flagship did not answer within {timeout_s:g} s")


def _exit_with_parent(parent: int) -> None:
    """Stop this server once its parent is gone (its children are then adopted by another process)."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str] | None = None) -> None:
    """Serve until stopped by a signal."""
    parser = argparse.ArgumentParser(prog="python -m lab.flagship", description=__doc__)
    parser.add_argument("--answers", type=Path, required=True, help='JSONL rows {"content", "answer"}')
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free port")
    parser.add_argument("--ready-file", type=Path)
    parser.add_argument("--ledger", type=Path, help="JSONL file of billed answers, appended to")
    parser.add_argument("--options", default="{}", help="JSON object of FlagshipOptions")
    for name in ("error-rate", "failure-rate", "latency-s", "rate-limit"):
        parser.add_argument(f"--{name}", type=float)
    parser.add_argument("--api-key")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--model", action="append", dest="models", help="may be given more than once")
    parser.add_argument("--exit-with", type=int, metavar="PID", help="stop when this parent process is gone")
    given = parser.parse_args(arguments)
    fields = ("error_rate", "failure_rate", "latency_s", "rate_limit", "api_key", "seed", "models")
    chosen = {name: getattr(given, name) for name in fields if getattr(given, name) is not None}
    options = FlagshipOptions.model_validate({**json.loads(given.options), **chosen})
    app = create_app(AnswerBook.load(given.answers, options), options, Ledger(given.ledger))
    if given.exit_with is not None:
        _exit_with_parent(given.exit_with)
    with socket.create_server((given.host, given.port), backlog=512) as listener:
        server = _Server(uvicorn.Config(app, log_level="warning", access_log=False))
        server.url = f"http://{given.host}:{listener.getsockname()[1]}"
        server.ready_file = given.ready_file
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
