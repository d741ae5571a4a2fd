"""Examples to token ids: the serving prompt, then the answer with its stop token; only this is learnt."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from cascade.errors import StageError
from cascade.trace import Message


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """Token ids of prompt + answer; the answer's tokens, from `n_prompt` on, are what is learnt."""

    id: str
    ids: tuple[int, ...]
    n_prompt: int

    @property
    def n_completion(self) -> int:
        return len(self.ids) - self.n_prompt


def stop_token_ids(tokenizer: Any, generation_config: Any = None) -> frozenset[int]:
    """Every token that ends generation at serving time. Raises StageError when there is none."""
    found: set[int] = set()
    for owner in (tokenizer, generation_config):
        value = getattr(owner, "eos_token_id", None)
        found |= {value} if isinstance(value, int) else set(value or ())
    if not found:
        raise StageError("The tokenizer names no end-of-turn token (eos_token_id); set one in its config.")
    return frozenset(found)


def encode_example(
    tokenizer: Any, example_id: str, messages: Sequence[Message], answer: str, stop_ids: Collection[int]
) -> EncodedExample:
    """Encode one example as it is met in serving: the prompt's own tokens, then the answer's.

    The two are tokenised apart, since a model that serves never sees a token that spans both. The
    completion is cut after its first stop token (templates like to add a newline) and gets the tokenizer's
    own when the template writes none. Raises StageError when the prompt is no prefix of the conversation,
    which no loss mask could mend.
    """
    turns = [dict(m) for m in messages]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    full = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": answer}], tokenize=False)
    if not full.startswith(prompt):
        raise StageError(
            f"The chat template rewrites the prompt of example {example_id!r} once an answer follows "
            f"(prompt ends {prompt[-40:]!r}); use a template whose generation prompt is kept."
        )
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    completion = tokenizer(full[len(prompt) :], add_special_tokens=False)["input_ids"]
    end = next((i for i, token in enumerate(completion) if token in stop_ids), None)
    completion = [*completion, tokenizer.eos_token_id] if end is None else completion[: end + 1]
    return EncodedExample(example_id, (*prompt_ids, *completion), len(prompt_ids))


def plan_batches(
    lengths: Sequence[int], batch_tokens: int, epochs: float, token_budget: int | None, seed: int
) -> list[list[int]]:
    """The whole order of training, step by step: lists of example numbers, the same for the same arguments.

    Batches hold examples of like length (up to a seeded jitter), so that rows x longest stays within
    `batch_tokens` (a longer example is a batch alone), and come in random order. With `token_budget`
    epochs follow each other until the next example would pass that many tokens, whatever `epochs` says: arms
    of a comparison then train on equally many tokens. Otherwise the last of `epochs` may be a fraction.
    """
    total = sum(lengths)
    limit = token_budget if token_budget is not None else round(total * epochs)
    steps: list[list[int]] = []
    used = 0
    epoch = 0
    while lengths and used < limit:
        for batch in _epoch_batches(lengths, batch_tokens, random.Random(f"{seed}:{epoch}")):
            room: list[int] = []
            for row in batch:
                if used + lengths[row] > limit:
                    return [*steps, room] if room else steps
                used += lengths[row]
                room.append(row)
            steps.append(room)
        epoch += 1
    return steps


def _epoch_batches(lengths: Sequence[int], batch_tokens: int, rng: random.Random) -> list[list[int]]:
    order = sorted(range(len(lengths)), key=lambda row: lengths[row] * rng.uniform(0.9, 1.1))
    batches: list[list[int]] = [[]]
    for row in order:
        longest = max([lengths[row], *(lengths[r] for r in batches[-1])])
        if batches[-1] and longest * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    for batch in batches:
        rng.shuffle(batch)
    rng.shuffle(batches)
    return batches
