"""The loss of a step and its gradient, in pieces that fit into memory.

Three ways compute the same sum over completion tokens; `layout` picks one:

- fast: finetune.fast, exact and without mask, for decoders that it knows;
- packed: examples end to end in one row, told apart by positions that begin anew and no attention mask at all
  (a mask of ones would let them see each other). With FlashAttention each attends to itself alone; under SDPA
  transformers builds a block-diagonal mask, which costs more than padding does at these lengths;
- padded: rows of like length under a mask, for any causal model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor

from cascade.errors import ConfigError
from finetune.batches import cut_rectangles, pack_best_fit
from finetune.encode import EncodedExample
from finetune.fast import FastPath, fast_path

Layout = Literal["fast", "packed", "padded"]
_FLASH = {"flash_attention_2", "flash_attention_3"}


def completion_loss(model: Any, batch: Sequence[EncodedExample]) -> Tensor:
    """Sum over the batch of the cross-entropy (nats) of its completion tokens, rows padded on the right.

    Only the hidden states that predict a completion token reach the output layer, so the (rows, length,
    vocabulary) logits are never made; a hook does it, since scaling and capping of logits differ by model.
    """
    width = max(len(e.ids) for e in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    attention, learnt = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, example in enumerate(batch):
        n = len(example.ids)
        ids[row, :n] = torch.tensor(example.ids)
        attention[row, :n] = 1
        learnt[row, example.n_prompt : n] = True
    return _loss_of(model, ids, learnt, attention_mask=attention)


def packed_loss(model: Any, batch: Sequence[EncodedExample]) -> Tensor:
    """The same sum with the examples end to end in one row: positions begin anew with each, and no mask is given."""
    ids = torch.tensor([[token for e in batch for token in e.ids]])
    learnt = torch.tensor([[column >= e.n_prompt for e in batch for column in range(len(e.ids))]])
    positions = torch.tensor([[column for e in batch for column in range(len(e.ids))]])
    return _loss_of(model, ids, learnt, position_ids=positions)


def _loss_of(model: Any, ids: Tensor, learnt: Tensor, **inputs: Tensor) -> Tensor:
    device = next(model.parameters()).device
    ids, learnt = ids.to(device), learnt.to(device)
    with _select_before_head(model, learnt[:, 1:]):
        logits = model(input_ids=ids, **{name: value.to(device) for name, value in inputs.items()}).logits
    return torch.nn.functional.cross_entropy(logits[0].float(), ids[:, 1:][learnt[:, 1:]], reduction="sum")


@contextmanager
def _select_before_head(model: Any, predicts: Tensor) -> Iterator[None]:
    """Let only the hidden states at `predicts` (rows, length - 1) through to the output layer, as one row."""

    def select(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0][:, :-1][predicts].unsqueeze(0), *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


class Gradients:
    """Adds up a step's gradient, piece by piece, in the model's `grad` fields; remembers what fitted into memory."""

    def __init__(self, model: Any, micro_tokens: int, layout: Layout | Literal["auto"] = "auto") -> None:
        self.model = model
        self.micro_tokens = micro_tokens
        """Rows x longest of one piece; halved when memory runs out."""
        self.fast: FastPath | None = fast_path(model) if layout in ("auto", "fast") else None
        if layout == "fast" and self.fast is None:
            kind = model.config.model_type
            raise ConfigError(f"layout: fast knows no {kind!r} model with this adapter; leave layout at auto.")
        self.layout: Layout = self._pick(layout)
        self.checkpointing = False

    def _pick(self, layout: str) -> Layout:
        """As measured on a CPU (docs/training.md): fast where known, else padded; packing wants FlashAttention."""
        if layout in ("packed", "padded"):
            return "packed" if layout == "packed" else "padded"
        flash = getattr(self.model.config, "_attn_implementation", "") in _FLASH
        return "fast" if self.fast is not None else "packed" if flash else "padded"

    def refresh(self) -> None:
        """Take up changed adapter weights; before each step and each evaluation."""
        if self.layout == "fast" and self.fast is not None:
            self.fast.refresh()

    def loss(self, batch: Sequence[EncodedExample]) -> Tensor:
        """Sum of the cross-entropy (nats) of the batch's completion tokens, all at once."""
        if self.layout == "fast" and self.fast is not None:
            return self.fast.loss(batch)
        return packed_loss(self.model, batch) if self.layout == "packed" else completion_loss(self.model, batch)

    def cut(self, batch: Sequence[EncodedExample]) -> list[list[EncodedExample]]:
        """The pieces that are computed one after the other."""
        if self.layout == "packed":
            return pack_best_fit(batch, self.micro_tokens)
        return cut_rectangles(batch, self.micro_tokens, share=self.layout == "fast")

    def accumulate(self, batch: Sequence[EncodedExample], n_tokens: int) -> float:
        """Add the gradient of (sum of the batch's losses) / n_tokens; returns that value.

        `n_tokens` is the completion tokens of the whole step, over all processes and pieces: each token weighs
        the same however the step is cut. Out of memory, the pieces are halved and the step begun again, then
        activations are recomputed instead of kept; when that is not enough the error goes up.
        """
        self.refresh()
        while True:
            pieces = self.cut(batch)
            try:
                total = 0.0
                for piece in pieces:
                    loss = self.loss(piece) / n_tokens
                    loss.backward()
                    total += float(loss.detach())
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self._back_off(pieces):
                    raise
            else:
                return total

    @torch.no_grad()
    def mean_loss(self, examples: Sequence[EncodedExample]) -> float:
        """Mean cross-entropy (nats) of the examples' completion tokens, without dropout."""
        training = self.model.training
        self.model.eval()
        self.refresh()
        total = sum(float(self.loss(piece)) for piece in self.cut(examples))
        self.model.train(training)
        return total / sum(e.n_completion for e in examples)

    def _back_off(self, pieces: Sequence[Sequence[EncodedExample]]) -> bool:
        """Smaller pieces; with one example each, no kept activations; False when there is nothing left to give."""
        self.model.zero_grad(set_to_none=True)
        if max(len(piece) for piece in pieces) > 1:
            most = max(sum(len(e.ids) for e in p) for p in pieces if len(p) > 1)
            self.micro_tokens = max(1, min(self.micro_tokens, most) // 2)
        elif not self.checkpointing:
            self._checkpoint_activations()
        else:
            return False
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True

    def _checkpoint_activations(self) -> None:
        self.checkpointing = True
        if self.fast is not None:
            self.fast.checkpointing = True
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out: a GPU's error has a type of its own, the CPU allocator's only a text."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate" in str(error)


def flat_gradient(weights: Sequence[Tensor]) -> Tensor:
    """All gradients in one row, zeros where a process had nothing to add: one exchange instead of hundreds."""
    return torch.cat([(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in weights])


def spread_gradient(flat: Tensor, weights: Sequence[Tensor]) -> None:
    """Inverse of `flat_gradient`."""
    for weight, part in zip(weights, flat.split([w.numel() for w in weights]), strict=True):
        weight.grad = cast(Tensor, part.view_as(weight))
