"""What is sent to an OpenAI-compatible endpoint, and the digest by which an answer to it is known again."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cascade.tiers import SamplingConfig, sample_seed
from cascade.trace import Query


class OpenAITierConfig(BaseModel):
    """An endpoint and how to ask it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1)
    """Model name as the endpoint knows it."""
    name: str | None = None
    """Name that answers carry, as in the price table; None means `model`."""
    base_url: str
    """Up to and including /v1."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key, None for an endpoint without. A loopback URL needs none."""
    max_tokens: int = Field(default=256, gt=0)
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: float | None = 0.0
    """None leaves it out, for models that refuse the parameter."""
    timeout_s: float = Field(default=60.0, gt=0)
    max_retries: int = Field(default=4, ge=0)
    """Retries of one request after a timeout, rate limit or server error, with growing pauses."""
    concurrency: int = Field(default=8, gt=0)
    logprobs: bool = False
    """Ask for log-probabilities of the two likeliest tokens."""
    send_schema: bool = False
    """Send a query's JSON schema as response_format; only for endpoints that know it."""
    samples_per_request: Literal["one", "all"] = "one"
    """Draw k samples by k requests, or by one with n = k: the prompt is billed once, but not all endpoints know n."""

    @property
    def price_name(self) -> str:
        """Name that answers carry and that the price table must list."""
        return self.name or self.model


def request_params(query: Query, config: OpenAITierConfig) -> dict[str, Any]:
    """Body of the chat completion request for `query`."""
    params: dict[str, Any] = {
        "model": config.model,
        "messages": [dict(message) for message in query.messages],
        config.token_limit_field: config.max_tokens,
    }
    if config.temperature is not None:
        params["temperature"] = config.temperature
    if config.logprobs:
        params |= {"logprobs": True, "top_logprobs": 2 if config.temperature == 0 else 3}
    if config.send_schema and query.schema is not None:
        schema = {"name": "answer", "schema": query.schema, "strict": True}
        params["response_format"] = {"type": "json_schema", "json_schema": schema}
    return params


def sample_params(
    query: Query, config: OpenAITierConfig, sampling: SamplingConfig, index: int = 0, n: int = 1
) -> dict[str, Any]:
    """Body of the request for `n` samples, the first of which has number `index`.

    Where the endpoint refuses a temperature (None in `config`), its own is what it samples at.
    """
    params = request_params(query, config)
    if config.temperature is not None:
        params |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if sampling.seed is not None:
        params["seed"] = sample_seed(query, index, sampling.seed)
    if n > 1:
        params["n"] = n
    for name in ("logprobs", "top_logprobs"):  # a sample is compared as text
        params.pop(name, None)
    return params


def request_digest(query: Query, config: OpenAITierConfig) -> str:
    """SHA-256 (hex) of model, messages and parameters: equal for questions that need asking only once."""
    return params_digest(request_params(query, config))


def params_digest(params: dict[str, Any]) -> str:
    """SHA-256 (hex) of a request's body, whatever the order of its keys."""
    body = json.dumps(params, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(body.encode()).hexdigest()
