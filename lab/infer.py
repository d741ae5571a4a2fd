"""Greedy batched answers of a small causal model, with the confidence of each answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Answer:
    """A decoded answer with the natural-log probabilities of its tokens (the end token included)."""

    text: str
    mean_logprob: float
    min_logprob: float


@torch.inference_mode()
def answer_all(
    model: Any, tokenizer: Any, texts: Sequence[str], *, batch_size: int = 64, max_new_tokens: int = 40
) -> list[Answer]:
    """Answer user messages greedily, in the order given; queries of like length share a batch."""
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in texts
    ]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer([prompts[index] for index in chosen], return_tensors="pt", padding=True)
        batch.pop("token_type_ids", None)
        out = model.generate(
            **batch,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
        tokens = out.sequences[:, batch["input_ids"].shape[1] :]
        scores = torch.stack(out.scores, dim=1).float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        for index, ids, logprobs in zip(chosen, tokens, scores, strict=True):
            answers[index] = _one(ids, logprobs, tokenizer)
    return [answers[index] for index in range(len(prompts))]


def _one(ids: torch.Tensor, logprobs: torch.Tensor, tokenizer: Any) -> Answer:
    ends = (ids == tokenizer.eos_token_id).nonzero()
    length = int(ends[0]) + 1 if len(ends) else len(ids)
    kept = logprobs[:length]
    text = tokenizer.decode(ids[:length], skip_special_tokens=True)
    return Answer(text, float(kept.mean()), float(kept.min()))
