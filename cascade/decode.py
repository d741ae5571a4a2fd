"""Decoding of a batch, greedy or sampled, with the confidence of every token, without the overhead of a general
generate().

Rows that ended leave the batch, and the key-value cache is written in place: both matter on a CPU, where
copying the cache at every step costs more than the network itself.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

COMPACT_SHARE = 0.15
"""Ended rows are dropped when they make up this share of the batch; each drop copies the cache once."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One row's answer."""

    ids: list[int]
    """Generated tokens, the end token left out."""
    logprobs: list[float]
    """Natural log-probability of each generated token, the end token included."""
    margins: list[float]
    """p1 - p2 of the two likeliest tokens at each of these steps, whichever was chosen."""
    ended: bool
    """False when the row was cut off."""
    seconds: float
    """From the start of the batch until this row was done."""


class _InPlaceLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer that writes into a buffer of fixed capacity instead of concatenating at every step."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.buffers is None:
            self.lazy_initialization(key_states, value_states)
            self.buffers = (self._allocate(key_states), self._allocate(value_states))
        past, new = self.get_seq_length(), key_states.shape[-2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, past : past + new] = states
        self.keys, self.values = (buffer[:, :, : past + new] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.buffers is not None:
            length = self.get_seq_length()
            self.buffers = (self._select(self.buffers[0], indices), self._select(self.buffers[1], indices))
            self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)

    def _allocate(self, states: torch.Tensor) -> torch.Tensor:
        rows, heads, _, size = states.shape
        return states.new_empty((rows, heads, self.capacity, size))

    def _select(self, buffer: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        chosen = buffer.new_empty((len(indices), *buffer.shape[1:]))
        length = self.get_seq_length()
        chosen[:, :, :length] = buffer[indices, :, :length]
        return chosen


def greedy(
    model: Any, prompts: Sequence[Sequence[int]], pad_id: int, end_ids: Sequence[int], max_new_tokens: int
) -> list[Decoded]:
    """Continue each prompt (token ids) by the likeliest tokens until an end token or `max_new_tokens`.

    Prompts are padded on the left, with positions counted from each row's first token, so a row's result
    does not depend on its batch but for rounding. `model` is a causal language model of transformers, in
    evaluation mode.
    """
    with torch.inference_mode():
        return _Batch(model, prompts, pad_id, end_ids, max_new_tokens, _Greedy()).run()


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    pad_id: int,
    end_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
) -> list[Decoded]:
    """As `greedy`, but each token is drawn at `temperature` (> 0), among the likeliest that together have `top_p`.

    A row's draws come from its own seed alone, so it is the same in any batch but for rounding. The log-probabilities
    told are the model's own, at temperature 1.
    """
    with torch.inference_mode():
        draws = _Draws(seeds, max_new_tokens, temperature, top_p, model.device)
        return _Batch(model, prompts, pad_id, end_ids, max_new_tokens, draws).run()


class _Greedy:
    """Chooses the likeliest token."""

    def choose(self, logits: torch.Tensor, likeliest: torch.Tensor, rows: torch.Tensor, step: int) -> torch.Tensor:
        return likeliest


class _Draws:
    """Chooses by one uniform number per row and step, drawn beforehand from the row's own generator."""

    def __init__(self, seeds: Sequence[int], steps: int, temperature: float, top_p: float, device: Any) -> None:
        drawn = np.stack([np.random.default_rng(seed).random(steps) for seed in seeds])
        self.uniform = torch.tensor(drawn, dtype=torch.float64, device=device)
        self.temperature, self.top_p = temperature, top_p

    def choose(self, logits: torch.Tensor, likeliest: torch.Tensor, rows: torch.Tensor, step: int) -> torch.Tensor:
        """Inverse of the cumulative distribution in order of token ids, where rounding swaps no two tokens."""
        p = (logits.double() / self.temperature).softmax(-1)
        if self.top_p < 1.0:
            ranked = p.sort(dim=-1, descending=True).values
            before = ranked.cumsum(-1) - ranked
            least = ranked.masked_fill(before >= self.top_p, 1.0).amin(-1, keepdim=True)
            p = p.masked_fill(p < least, 0.0)
        sums = p.cumsum(-1)
        target = self.uniform[rows, step, None] * sums[:, -1:]
        # Right: a token of no probability spans no part of the line, and is passed over even at its very edge.
        chosen: torch.Tensor = torch.searchsorted(sums, target, right=True).squeeze(-1)
        return chosen.clamp(max=logits.shape[-1] - 1)


class _Batch:
    """State of one batch: where each still growing row belongs, and what was generated so far."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        pad_id: int,
        end_ids: Sequence[int],
        max_new_tokens: int,
        chooser: _Greedy | _Draws,
    ) -> None:
        self.chooser = chooser
        self.started = time.perf_counter()
        device = model.device
        width = max(len(prompt) for prompt in prompts)
        self.model, self.pad_id, self.limit = model, pad_id, max_new_tokens
        self.end_ids = torch.tensor(list(end_ids), device=device)
        self.ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.mask = torch.zeros((len(prompts), width + max_new_tokens), dtype=torch.long, device=device)
        self.mask[:, :width] = torch.arange(width, device=device) >= (width - lengths)[:, None]
        self.mask[:, width:] = 1
        self.positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        self.width = width
        self.cache = _new_cache(model.config, width + max_new_tokens)
        self.cache_name = _cache_argument(model)
        self.rows = torch.arange(len(prompts), device=device)
        shape = (len(prompts), max_new_tokens)
        self.tokens = torch.full(shape, pad_id, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(shape, device=device)
        self.margins = torch.zeros(shape, device=device)
        self.n_steps = [max_new_tokens] * len(prompts)
        self.ended = [False] * len(prompts)
        self.seconds = [0.0] * len(prompts)

    def run(self) -> list[Decoded]:
        done = torch.zeros(len(self.rows), dtype=torch.bool, device=self.rows.device)
        step_ids, start, stop = self.ids, 0, self.width
        for step in range(self.limit):
            chosen = self._step(step_ids, start, stop, step)
            newly = torch.isin(chosen, self.end_ids) & ~done
            if newly.any():
                self._finish(self.rows[newly].tolist(), step)
                done |= newly
                if done.all():
                    break
                if done.float().mean() >= COMPACT_SHARE:
                    keep = (~done).nonzero().squeeze(1)
                    self._keep(keep)
                    chosen, done = chosen[keep], done[keep]
            step_ids, start, stop = chosen[:, None], stop, stop + 1
        self._cut_off()
        return self._collect()

    def _step(self, step_ids: torch.Tensor, start: int, stop: int, step: int) -> torch.Tensor:
        output = self.model(
            input_ids=step_ids,
            attention_mask=self.mask[:, :stop],
            position_ids=self.positions[:, start:stop],
            use_cache=True,
            logits_to_keep=1,
            **{self.cache_name: self.cache},
        )
        logits = output.logits[:, -1].float()
        top, indices = logits.topk(2, dim=-1)
        total = logits.logsumexp(-1, keepdim=True)
        logs = top - total
        chosen = self.chooser.choose(logits, indices[:, 0], self.rows, step)
        self.tokens[self.rows, step] = chosen
        self.logprobs[self.rows, step] = (logits.gather(-1, chosen[:, None]) - total).squeeze(-1)
        self.margins[self.rows, step] = logs[:, 0].exp() - logs[:, 1].exp()
        return chosen

    def _finish(self, rows: list[int], step: int) -> None:
        for row in rows:
            self.n_steps[row], self.ended[row] = step + 1, True
            self.seconds[row] = time.perf_counter() - self.started

    def _keep(self, keep: torch.Tensor) -> None:
        self.rows, self.mask, self.positions = self.rows[keep], self.mask[keep], self.positions[keep]
        for layer in self.cache.layers:
            layer.batch_select_indices(keep)

    def _cut_off(self) -> None:
        total = time.perf_counter() - self.started
        self.seconds = [spent if ended else total for spent, ended in zip(self.seconds, self.ended, strict=True)]

    def _collect(self) -> list[Decoded]:
        columns = (self.tokens.tolist(), self.logprobs.tolist(), self.margins.tolist())
        return [
            Decoded(tokens[: n - ended], logprobs[:n], margins[:n], ended, seconds)
            for tokens, logprobs, margins, n, ended, seconds in zip(
                *columns, self.n_steps, self.ended, self.seconds, strict=True
            )
        ]


def _new_cache(config: Any, capacity: int) -> Cache:
    """An in-place cache where every layer attends to everything, else the library's own."""
    cache = DynamicCache(config=config)
    if cache.layers and all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [_InPlaceLayer(capacity) for _ in cache.layers]
    return cache


def _cache_argument(model: Any) -> str:
    """transformers 5 renamed past_key_values to cache in some architectures."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
