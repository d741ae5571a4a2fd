"""The pieces of a decoder whose gradient is cheaper by hand: frozen gains, saved inputs only, chunked logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

_LOGITS_AT_ONCE = 4_000_000  # numbers of one chunk of logits, 16 MB in float32


class Norm(torch.autograd.Function):
    """RMSNorm (Zhang and Sennrich 2019) with a frozen gain, computed in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        wide = x.float()
        rate = torch.rsqrt(torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps))
        ctx.save_for_backward(x, rate, gain)
        return (wide * rate).to(x.dtype).mul_(gain)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, rate, gain = ctx.saved_tensors
        wide = x.float()
        g = (grads[0] * gain).float()
        along = torch.linalg.vecdot(g, wide).unsqueeze(-1) * rate.pow(3) / x.shape[-1]
        return g.mul_(rate).addcmul_(wide, along, value=-1).to(x.dtype), None, None


class SwiGlu(torch.autograd.Function):
    """silu(gate) * up of (tokens, gate and up side by side), saving its input alone."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, 1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        gate, up = both.chunk(2, 1)
        out = torch.empty_like(both)
        into_gate, into_up = out.chunk(2, 1)
        torch.mul(grads[0], F.silu(gate), out=into_up)
        into_gate.copy_(torch.ops.aten.silu_backward(grads[0] * up, gate))
        return out


class Rotate(torch.autograd.Function):
    """Rotary positions (Su et al. 2021) on (tokens, heads, width); the way back is the turn by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        cos, sin = ctx.saved_tensors
        return _turn(grads[0], cos, sin, -1), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """`cos` and `sin` (tokens, 1, width / 2): one angle turns a number of the first half and one of the second."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    (one, two), (first, second) = x.chunk(2, -1), out.chunk(2, -1)
    torch.mul(one, cos, out=first).addcmul_(two, sin, value=-sign)
    torch.mul(two, cos, out=second).addcmul_(one, sin, value=sign)
    return out


class AnswerLoss(torch.autograd.Function):
    """Sum of the cross-entropy of `targets`; the frozen head's logits live a chunk at a time, gradient and all."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        rows, learns = max(1, _LOGITS_AT_ONCE // head.shape[0]), ctx.needs_input_grad[0]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        into = torch.empty_like(hidden) if learns else hidden
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            logits = (hidden[part] @ head.T).float()
            wanted = targets[part, None]
            peak = torch.logsumexp(logits, 1, keepdim=True)
            total += (peak - logits.gather(1, wanted)).sum()
            if not learns:
                continue
            logits.sub_(peak).exp_()
            logits.scatter_add_(1, wanted, torch.full_like(peak, -1.0))
            into[part] = logits.to(hidden.dtype) @ head
        ctx.save_for_backward(into)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (into,) = ctx.saved_tensors
        return into * grads[0].to(into.dtype), None, None


def keep_mask(x: Tensor, dropout: float) -> Tensor:
    """Booleans in the shape of x, False with probability `dropout` (to 1 / 65,536 on a CPU).

    The CPU's generator makes a number at a time; one of 64 bits serves four entries, a fourth of the time.
    """
    if x.device.type != "cpu":
        return torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - dropout)
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return bits.view(torch.int16)[: x.numel()].view(x.shape) >= round(dropout * 2**16) - 2**15
