"""The student's loss without the waste: exact, for decoders of Llama's form (Llama, Mistral, Qwen2, Qwen3).

What a general forward pass computes and LoRA on answers has no use for is left out:

- the adapter is folded into the float32 weights once per step, W' = W + s B A, so a layer's forward and input
  gradient cost what the base model's do, and only dA and dB are extra (in bfloat16 the sum would lose
  the adapter's small numbers, and under dropout the adapter reads other numbers than the base: there it stays a
  product of its own);
- q, k, v are one matrix product, and so are gate and up; no weight but A and B gets a gradient;
- layers that read the same input read it through the same dropout;
- right padding under a causal mask reaches no real token, so there is no mask to build or to read;
- a prompt start that all rows of a piece share is computed once, and each row attends to it;
- the last layer's queries, output and MLP are computed for the positions that predict an answer token alone;
- logits come in chunks, and their gradient with them, so that (tokens, vocabulary) is never held whole.

`fast_path` returns None for any other model; finetune.loss then takes the model's own forward. Preflight compares
the two on the first examples before a run trusts this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.utils.checkpoint import checkpoint

from finetune.batches import shared_prompt
from finetune.encode import EncodedExample
from finetune.kernels import AnswerLoss, Norm, Rotate, SwiGlu
from finetune.projection import Projection

_KNOWN = {"llama", "mistral", "qwen2", "qwen3"}


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows as a shared start of `n_shared` tokens, then `rows` x `width` of their own, padded on the right."""

    ids: Tensor
    positions: Tensor
    n_shared: int
    rows: int
    width: int
    first: int
    """Column of the earliest token that predicts an answer token."""
    learns: Tensor
    """Of the rows x (width - first) last queries, those that predict an answer token."""
    targets: Tensor


class FastPath:
    """The loss of a model of a known form. `refresh` it after each change of the adapter."""

    def __init__(self, model: Any) -> None:
        base = model.get_base_model()
        self.decoder, self.config = base.model, base.config
        self.head = base.lm_head.weight
        self.checkpointing = False
        self.parts = [
            (
                Projection([layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]),
                Projection([layer.self_attn.o_proj]),
                Projection([layer.mlp.gate_proj, layer.mlp.up_proj]),
                Projection([layer.mlp.down_proj]),
            )
            for layer in self.decoder.layers
        ]
        last = self.decoder.layers[-1].self_attn
        self.last_q, self.last_kv = Projection([last.q_proj]), Projection([last.k_proj, last.v_proj])

    def refresh(self) -> None:
        """Take up the adapter's present values."""
        for parts in self.parts[:-1]:
            for part in parts:
                part.refresh()
        for part in (self.last_q, self.last_kv, *self.parts[-1][1:]):
            part.refresh()

    def loss(self, batch: Sequence[EncodedExample]) -> Tensor:
        """Sum over the batch of the cross-entropy (nats) of its completion tokens."""
        piece = _lay_out(batch, shared_prompt(batch), self.head.device)
        x = self.decoder.embed_tokens(piece.ids)
        cos, sin = self.decoder.rotary_emb(x[None], piece.positions[None])
        half = cos.shape[-1] // 2
        angles = cos[0, :, None, :half], sin[0, :, None, :half]
        for number in range(len(self.parts) - 1):
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(self._layer, number, x, angles, piece, use_reentrant=False)
            else:
                x = self._layer(number, x, angles, piece)
        x = self._last_layer(x, angles, piece)
        x = _norm(x, self.decoder.norm)
        return cast(Tensor, AnswerLoss.apply(x, self.head, piece.targets))

    def _layer(self, number: int, x: Tensor, angles: tuple[Tensor, Tensor], piece: _Piece) -> Tensor:
        layer, (qkv, o, *mlp) = self.decoder.layers[number], self.parts[number]
        attention = layer.self_attn
        wide = attention.head_dim
        mixed = qkv(_norm(x, layer.input_layernorm)).unflatten(1, (-1, wide))
        n_q, n_kv = qkv.sizes[0] // wide, qkv.sizes[1] // wide
        q, k, v = mixed[:, :n_q], mixed[:, n_q : n_q + n_kv], mixed[:, n_q + n_kv :]
        q, k = _place(q, attention, "q_norm", angles), _place(k, attention, "k_norm", angles)
        x = x + o(_attend(q, k, v, attention, piece))
        return _mlp(x, layer, mlp)

    def _last_layer(self, x: Tensor, angles: tuple[Tensor, Tensor], piece: _Piece) -> Tensor:
        """Hidden states (completion tokens, width) of the positions that predict them."""
        layer, (_, o, *mlp) = self.decoder.layers[-1], self.parts[-1]
        attention = layer.self_attn
        wide = attention.head_dim
        normed = _norm(x, layer.input_layernorm)
        kv = self.last_kv(normed).unflatten(1, (-1, wide))
        n_kv = kv.shape[1] // 2
        k = _place(kv[:, :n_kv], attention, "k_norm", angles)
        q = self.last_q(_queries(normed, piece)).unflatten(1, (-1, wide))
        q = _place(q, attention, "q_norm", (_queries(angles[0], piece), _queries(angles[1], piece)))
        attended = _attend(q, k, kv[:, n_kv:], attention, piece, first=piece.first)
        x = _queries(x, piece)[piece.learns] + o(attended[piece.learns])
        return _mlp(x, layer, mlp)


def fast_path(model: Any) -> FastPath | None:
    """The fast loss of a peft model, or None where its form is not known or its adapter is more than plain LoRA."""
    base = model.get_base_model()
    config = base.config
    if config.model_type not in _KNOWN or getattr(config, "sliding_window", None) or config.hidden_act != "silu":
        return None
    if getattr(config, "use_sliding_window", False):
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("partial_rotary_factor", 1) != 1 or getattr(base.lm_head, "bias", None) is not None:
        return None
    names = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
    linear = [
        getattr(owner, name)
        for layer in base.model.layers
        for owner, group in ((layer.self_attn, names[0]), (layer.mlp, names[1]))
        for name in group
    ]
    return FastPath(model) if all(_is_plain(layer) for layer in linear) else None


def _is_plain(layer: Any) -> bool:
    """One LoRA over an ordinary frozen matrix."""
    adapters = getattr(layer, "active_adapters", [])
    if len(adapters) != 1 or layer.merged or not hasattr(layer, "lora_A") or adapters[0] not in layer.lora_A:
        return False
    if type(layer.base_layer) is not torch.nn.Linear or layer.base_layer.weight.requires_grad:
        return False
    special = getattr(layer, "lora_variant", {}).get(adapters[0]) or layer.lora_B[adapters[0]].bias is not None
    return not special and type(layer.lora_dropout[adapters[0]]) in (torch.nn.Identity, torch.nn.Dropout)


def _lay_out(batch: Sequence[EncodedExample], n_shared: int, device: Any) -> _Piece:
    """The last token of each row predicts nothing and is left out."""
    width = max(len(e.ids) for e in batch) - 1 - n_shared
    first = min(e.n_prompt for e in batch) - 1 - n_shared
    own = torch.zeros(len(batch), width, dtype=torch.long)
    learns = torch.zeros(len(batch), width, dtype=torch.bool)
    targets: list[int] = []
    for row, example in enumerate(batch):
        n = len(example.ids) - 1 - n_shared
        own[row, :n] = torch.tensor(example.ids[n_shared:-1])
        learns[row, example.n_prompt - 1 - n_shared : n] = True
        targets += example.ids[example.n_prompt :]
    ids = torch.cat([torch.tensor(batch[0].ids[:n_shared], dtype=torch.long), own.flatten()])
    columns = torch.arange(n_shared + width)
    positions = torch.cat([columns[:n_shared], columns[n_shared:].repeat(len(batch))])
    return _Piece(
        ids.to(device),
        positions.to(device),
        n_shared,
        len(batch),
        width,
        first,
        learns[:, first:].flatten().to(device),
        torch.tensor(targets, device=device),
    )


def _queries(x: Tensor, piece: _Piece) -> Tensor:
    """The rows of x (tokens, ...) that the last layer is asked at: each row's columns from `first` on."""
    own = x[piece.n_shared :].unflatten(0, (piece.rows, piece.width))
    return cast(Tensor, own[:, piece.first :].flatten(0, 1))


def _attend(q: Tensor, k: Tensor, v: Tensor, attention: Any, piece: _Piece, first: int | None = None) -> Tensor:
    """Causal attention within rows, all of which see the shared start; (queries, heads x width).

    q, k, v are (tokens, heads, width). With `first`, q holds only the columns from there on, and no shared start.
    """
    n, rows = piece.n_shared, piece.rows
    how = {"scale": attention.scaling, "dropout_p": attention.attention_dropout if attention.training else 0.0}
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    own_k, own_v = (t[n:].unflatten(0, (rows, piece.width)).transpose(1, 2) for t in (k, v))
    n_queries = 0 if first is not None else n
    own_q = q[n_queries:].unflatten(0, (rows, -1)).transpose(1, 2)
    mask = None
    if n or first:
        keys = torch.arange(-n, piece.width, device=q.device)
        mask = keys <= torch.arange(first or 0, piece.width, device=q.device)[:, None]
    if n:
        start_k, start_v = (t[:n].transpose(0, 1)[None].expand(rows, -1, -1, -1) for t in (k, v))
        own_k, own_v = torch.cat([start_k, own_k], 2), torch.cat([start_v, own_v], 2)
    out = F.scaled_dot_product_attention(own_q, own_k, own_v, mask, is_causal=mask is None, **how)
    out = out.transpose(1, 2).flatten(0, 1).flatten(1)
    if n_queries == 0:
        return out
    start_q, start_k, start_v = (t[:n].transpose(0, 1)[None] for t in (q, k, v))
    start = F.scaled_dot_product_attention(start_q, start_k, start_v, is_causal=True, **how)
    return torch.cat([start[0].transpose(0, 1).flatten(1), out])


def _place(x: Tensor, attention: Any, norm: str, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Queries or keys (tokens, heads, width) with their positions; Qwen3 normalises each head before."""
    module = getattr(attention, norm, None)
    x = x if module is None else _norm(x, module)
    return cast(Tensor, Rotate.apply(x, *angles))


def _mlp(x: Tensor, layer: Any, parts: Sequence[Projection]) -> Tensor:
    gate_up, down = parts
    normed = _norm(x, layer.post_attention_layernorm)
    return x + down(cast(Tensor, SwiGlu.apply(gate_up(normed))))


def _norm(x: Tensor, module: Any) -> Tensor:
    return cast(Tensor, Norm.apply(x, module.weight, module.variance_epsilon))
