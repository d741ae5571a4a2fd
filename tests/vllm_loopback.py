"""Servers on loopback that speak vLLM's adapter endpoints over real small models, with vLLM's own ways of failing.

What vLLM does, and where it says so (read in November 2026):

GET /v1/models
    lists the base model (parent null) and each loaded adapter: id, root = its path, parent = the base model's name.
    https://docs.vllm.ai/en/latest/features/lora/ ("LoRA model lineage in model card").
POST /v1/load_lora_adapter {"lora_name", "lora_path", "load_inplace"?}
    200 with the text "Success: LoRA adapter 'x' added successfully."; 400 InvalidUserInput when a field is missing, or
    when the name is loaded and load_inplace is not true ("has already been loaded"); 404 NotFoundError when no adapter
    lies at the path; 500 InternalServerError with the engine's words when it cannot be loaded. The routes exist only
    where VLLM_ALLOW_RUNTIME_LORA_UPDATING is set: 404 otherwise.
    https://docs.vllm.ai/en/latest/features/lora/ ("Dynamically serving LoRA Adapters"), and
    https://github.com/vllm-project/vllm/blob/main/vllm/entrypoints/openai/models/serving.py (load_lora_adapter,
    _check_load_lora_adapter_request).
POST /v1/unload_lora_adapter {"lora_name"}
    200 with "Success: LoRA adapter 'x' removed successfully."; 404 NotFoundError "cannot be found". Same pages.
POST /v1/completions {"model", "prompt": [token ids], "echo": true, "logprobs": 1, "max_tokens": 1}
    choices[0].logprobs.token_logprobs: null for the first prompt token, then one per token, the generated one last
    (output of vLLM 0.16 quoted in https://github.com/ggml-org/llama.cpp/pull/15189; echo and logprobs together:
    https://github.com/vllm-project/vllm/issues/6508).
Any request that names a model which is not loaded
    404 NotFoundError "The model `x` does not exist."; with the filesystem resolver (VLLM_LORA_RESOLVER_CACHE_DIR) the
    folder of that name is loaded first, if its adapter_config.json has peft_type LORA and a base_model_name_or_path
    equal to the served base model's name.
    https://docs.vllm.ai/en/latest/design/lora_resolver_plugins/ and
    https://docs.vllm.ai/en/v0.20.2/api/vllm/plugins/lora_resolvers/filesystem_resolver/
Error bodies
    {"error": {"message", "type", "param", "code"}}.

Faults that a test can plant, each seen in the wild:

    "base"      a loaded adapter has no effect, silently: its module names carry another prefix
                (https://github.com/vllm-project/vllm/issues/34186, 48019)
    "stale"     an adapter answers from what was loaded before it: prefix-cache blocks of an older adapter
                (https://github.com/vllm-project/vllm/issues/42125, 30931)
    "400", "500"  loading is refused with this status
    "unlisted"  loading says Success, and the list does not show it: one of several API servers took the request
    "hang-up"   the connection breaks while loading, after the adapter was loaded
    "down"      every connection is closed without an answer, as by a server that has crashed
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cascade.local import LocalTier, LocalTierConfig
from promotion.files import folder_digest

BASE = "tiny-base"


class Models:
    """The base model and its adapters, loaded once for all servers; torch runs one request at a time."""

    def __init__(self, base: Path) -> None:
        self._base, self._lock, self._loaded = base, threading.Lock(), {}

    def tier(self, adapter: Path | None) -> LocalTier:
        key = None if adapter is None else folder_digest(adapter)
        with self._lock:
            if key not in self._loaded:
                config = LocalTierConfig(base_model=str(self._base), name=BASE, adapter=adapter)
                self._loaded[key] = LocalTier(config)
            return self._loaded[key]

    def logprobs(self, tier: LocalTier, ids: Sequence[int]) -> list[float]:
        with self._lock:
            return tier.logprobs(ids)


@dataclass
class Server:
    """One replica: what it has loaded, what it was asked, and the fault planted in it."""

    url: str
    models: Models
    loaded: dict[str, tuple[str, LocalTier]] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    fault: str | None = None
    resolver: Path | None = None
    calls: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    last: LocalTier | None = None

    def names(self) -> list[str]:
        with self.lock:
            return [name for name in self.loaded if name not in self.hidden]

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "load_lora_adapter":
            return self._load(body)
        if path == "unload_lora_adapter":
            return self._unload(body)
        model = body["model"]
        tier = self._find(model)
        if tier is None:
            return _error(404, "NotFoundError", f"The model `{model}` does not exist.")
        if path == "completions":
            ids = body["prompt"]
            logs: list[float | None] = [None, *self.models.logprobs(tier, ids), -0.5]
            choice = {"index": 0, "text": "x", "finish_reason": "length", "logprobs": {"token_logprobs": logs}}
        else:
            message = {"role": "assistant", "content": model}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        kind = "text_completion" if path == "completions" else "chat.completion"
        return 200, {"id": "x", "object": kind, "created": 0, "model": model, "choices": [choice], "usage": usage}

    def listing(self) -> dict[str, Any]:
        rows = [{"id": BASE, "object": "model", "root": BASE, "parent": None}]
        with self.lock:
            rows += [
                {"id": name, "object": "model", "root": path, "parent": BASE}
                for name, (path, _) in self.loaded.items()
                if name not in self.hidden
            ]
        return {"object": "list", "data": rows}

    def _find(self, model: str) -> LocalTier | None:
        if model == BASE:
            return self.models.tier(None)
        with self.lock:
            known = self.loaded.get(model)
        if known is None and self.resolver is not None:
            folder = self.resolver / model
            config = folder / "adapter_config.json"
            if config.exists():
                settings = json.loads(config.read_text())
                if settings["peft_type"] == "LORA" and settings["base_model_name_or_path"] == BASE:
                    self._load({"lora_name": model, "lora_path": str(folder)})
                    with self.lock:
                        known = self.loaded.get(model)
        return None if known is None else known[1]

    def _load(self, body: dict[str, Any]) -> tuple[int, Any]:
        name, path = body.get("lora_name"), body.get("lora_path")
        if not name or not path:
            return _error(400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided.")
        if self.fault in ("400", "500"):
            kind = "InvalidUserInput" if self.fault == "400" else "InternalServerError"
            return _error(int(self.fault), kind, "LoRA rank 64 is greater than max_lora_rank 16.")
        with self.lock:
            if name in self.loaded and not body.get("load_inplace"):
                message = f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in"
                return _error(400, "InvalidUserInput", f"{message} place, set 'load_inplace' to True.")
        if not (Path(path) / "adapter_config.json").is_file():
            return _error(404, "NotFoundError", f"Loading lora {name} failed: No adapter found for {path}")
        tier = self.models.tier(None if self.fault == "base" else Path(path))
        with self.lock:
            # Stale: the new name answers from what an older adapter left behind.
            served = self.last if self.fault == "stale" and self.last is not None else tier
            self.loaded[name], self.last = (path, served), tier
            if self.fault == "unlisted":
                self.hidden.add(name)
            else:
                self.hidden.discard(name)
        if self.fault == "hang-up":
            return 0, None
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _unload(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = body.get("lora_name")
        with self.lock:
            if name not in self.loaded:
                return _error(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
            del self.loaded[name]
            self.hidden.discard(name)
        return 200, f"Success: LoRA adapter '{name}' removed successfully."


def _error(status: int, kind: str, message: str) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": kind, "param": None, "code": status}}


@contextmanager
def fleet(models: Models, n: int = 3, resolver: Path | None = None) -> Iterator[list[Server]]:
    """`n` servers with the base model loaded."""
    running = [_start(models, resolver) for _ in range(n)]
    try:
        yield [server for server, _, _ in running]
    finally:
        for _, http, thread in running:
            http.shutdown()
            thread.join()
            http.server_close()


def _start(models: Models, resolver: Path | None) -> tuple[Server, ThreadingHTTPServer, threading.Thread]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path = self.path.removeprefix("/v1/").removeprefix("chat/")
            server.calls.append((path, str(body.get("lora_name") or body.get("model"))))
            if server.fault == "down":
                self.close_connection = True
                return
            chat = self.path.startswith("/v1/chat/")
            status, content = server.reply("chat" if chat else path, body)
            if status == 0:
                self.close_connection = True
                return
            self._send(status, content)

        def do_GET(self) -> None:
            if server.fault == "down":
                self.close_connection = True
                return
            self._send(200, server.listing())

        def _send(self, status: int, content: Any) -> None:
            text = isinstance(content, str)
            raw = content.encode() if text else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8" if text else "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    class Http(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:
            pass

    http = Http(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http.server_port}/v1", models, resolver=resolver)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    return server, http, thread
