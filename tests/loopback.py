"""A real HTTP server on a loopback port that answers chat completions as a test wants it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cascade.cost import Price, PriceTable
from cascade.trace import Query

PRICES = PriceTable(prices={"small": Price(0.12, 0.60), "large": Price(3, 15)})


def make_query(number: int, text: str | None = None, **fields: Any) -> Query:
    time = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=number)
    messages = ({"role": "user", "content": text or f"question {number}"},)
    return Query(id=f"q{number:04d}", time=time, route="test", messages=messages, **fields)


def completion(text: str, **fields: Any) -> dict[str, Any]:
    """Body of a chat completion of 10 prompt and 5 completion tokens."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    } | fields


def echo(body: dict[str, Any], n: int) -> tuple[int, Any]:
    """The reply that repeats the question."""
    return 200, completion(f"answer to {body['messages'][-1]['content']}")


@dataclass
class Loopback:
    """The running server and what it was asked."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    @property
    def questions(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.bodies]


@contextmanager
def serve(reply: Callable[[dict[str, Any], int], tuple[int, Any]] = echo) -> Iterator[Loopback]:
    """Serve `reply(request body, number of the request) -> (status, JSON body or bytes)`; None as body hangs up."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                state.bodies.append(body)
                state.headers.append({key.lower(): value for key, value in self.headers.items()})
                number = len(state.bodies)
                state.running += 1
                state.most_running = max(state.most_running, state.running)
            try:
                status, content = reply(body, number)
            finally:
                with lock:
                    state.running -= 1
            self.close_connection = content is None
            if content is not None:
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

        def do_GET(self) -> None:
            raw = json.dumps({"object": "list", "data": [{"id": "large", "object": "model"}]}).encode()
            self.send_response(200 if self.path == "/v1/models" else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:
            pass  # a client that gave up is part of some tests

    with Server(("127.0.0.1", 0), Handler) as server:
        state = Loopback(f"http://127.0.0.1:{server.server_port}/v1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
