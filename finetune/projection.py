"""Frozen linear layers and their LoRA adapters as one product, with gradients for the adapters and the input alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from finetune.kernels import keep_mask


@dataclass(slots=True)
class Projection:
    """Linear layers that read the same input, with their adapters."""

    layers: list[Any]
    stacked: Tensor | None = None
    """(outputs, inputs): the layers' float32 weights, with the adapter of this step unless it is `apart`."""
    apart: bool = True
    """Whether the adapter is a product of its own, and not folded into `stacked`."""
    bias: Tensor | None = None
    sizes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sizes = [layer.base_layer.weight.shape[0] for layer in self.layers]
        biases = [layer.base_layer.bias for layer in self.layers]
        if any(b is not None for b in biases):
            zeros = [torch.zeros_like(layer.base_layer.weight[:, 0]) for layer in self.layers]
            self.bias = torch.cat([z if b is None else b.detach() for b, z in zip(biases, zeros, strict=True)])

    @property
    def scales(self) -> list[float]:
        return [layer.scaling[layer.active_adapters[0]] for layer in self.layers]

    @property
    def factors(self) -> list[Tensor]:
        """A and B of each layer in turn: (rank, inputs), (outputs, rank)."""
        name = self.layers[0].active_adapters[0]
        return [w for layer in self.layers for w in (layer.lora_A[name].weight, layer.lora_B[name].weight)]

    @property
    def dropout(self) -> float:
        """Share of the adapter's input that this step leaves out."""
        module = self.layers[0].lora_dropout[self.layers[0].active_adapters[0]]
        return float(module.p) if isinstance(module, torch.nn.Dropout) and module.training else 0.0

    @torch.no_grad()
    def refresh(self) -> None:
        """Take up the adapter as it now is, and whether there is dropout."""
        parts = [layer.base_layer.weight for layer in self.layers]
        apart = self.dropout > 0
        if parts[0].dtype != torch.float32 or (apart and self.apart and self.stacked is not None):
            return
        if self.stacked is None:
            self.stacked = torch.empty(sum(self.sizes), parts[0].shape[1], device=parts[0].device)
        self.apart, factors = apart, self.factors
        for i, out in enumerate(self.stacked.split(self.sizes)):
            out.copy_(parts[i])
            if not apart:
                out.addmm_(factors[2 * i + 1], factors[2 * i], alpha=self.scales[i])

    def base(self, x: Tensor) -> Tensor:
        """(tokens, inputs) -> (tokens, outputs), without the adapter where it is apart."""
        if self.stacked is not None:
            return F.linear(x, self.stacked, self.bias)
        parts = [F.linear(x, layer.base_layer.weight, layer.base_layer.bias) for layer in self.layers]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def into_input(self, grad: Tensor, adapters: Tensor | None) -> Tensor:
        """The way back of `base`: gradient of its outputs to that of its input, added to the adapters' where they are
        apart."""
        if adapters is None:
            return grad @ cast(Tensor, self.stacked)
        if self.stacked is not None:
            return adapters.addmm_(grad, self.stacked)
        for g, layer in zip(grad.split(self.sizes, 1), self.layers, strict=True):
            adapters.addmm_(g, layer.base_layer.weight)
        return adapters

    def __call__(self, x: Tensor) -> Tensor:
        """(tokens, inputs) -> (tokens, outputs of all layers side by side)."""
        return cast(Tensor, _Project.apply(x, self, *self.factors))


class _Project(torch.autograd.Function):
    """x W^T + s (drop(x) A^T) B^T with gradients for x, A and B only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, of: Projection, *factors: Tensor) -> Tensor:
        ctx.of, ctx.dropout = of, of.dropout
        kept = keep_mask(x, ctx.dropout) if ctx.dropout else None
        seen = x if kept is None else x * kept
        ctx.save_for_backward(seen, kept, *factors)
        y = of.base(x)
        if of.apart:
            low = (seen @ _stack(factors, x.dtype).T).split([a.shape[0] for a in factors[0::2]], 1)
            pieces = zip(y.split(of.sizes, 1), low, factors[1::2], of.scales, strict=True)
            for out, h, b, scale in pieces:
                out.addmm_(h, b.to(x.dtype).T, alpha=scale / (1 - ctx.dropout))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        seen, kept, *factors = ctx.saved_tensors
        of: Projection = ctx.of
        grad, stacked = grads[0], _stack(factors, seen.dtype)
        ranks = [a.shape[0] for a in factors[0::2]]
        low, down = seen @ stacked.T, torch.empty(len(seen), sum(ranks), dtype=seen.dtype, device=seen.device)
        into_b = []
        scales = [scale / (1 - ctx.dropout) for scale in of.scales]
        pieces = zip(grad.split(of.sizes, 1), low.split(ranks, 1), down.split(ranks, 1), scales, strict=True)
        for i, (g, h, d, scale) in enumerate(pieces):
            b = factors[2 * i + 1]
            d.copy_(torch.mm(g, b.to(g.dtype))).mul_(scale)
            into_b.append(torch.mm(g.T, h).mul_(scale).to(b.dtype))
        into_a = torch.mm(down.T, seen).to(factors[0].dtype).split(ranks)
        dx = None
        if ctx.needs_input_grad[0]:
            through = down @ stacked if of.apart else None
            dx = of.into_input(grad, through if kept is None or through is None else through.mul_(kept))
        return dx, None, *(w for pair in zip(into_a, into_b, strict=True) for w in pair)


def _stack(factors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """All A below each other: (ranks, inputs)."""
    return torch.cat([a.to(dtype) for a in factors[0::2]])
