"""One optimizer step's examples cut into pieces that fit: rectangles of like length, or packed rows."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.encode import EncodedExample

_WASTE = 0.06  # of a piece may be padding
_SHARED_AT_LEAST = 0.05  # of a piece's tokens must be saved before a shared prompt is worth its bookkeeping


def cut_rectangles(batch: Sequence[EncodedExample], max_tokens: int, share: bool = False) -> list[list[EncodedExample]]:
    """The examples of a step by length, in pieces of at most `max_tokens` that pad little.

    The gradient of a step is a sum over its examples, so the cut changes no result, only what is computed: a row
    joins a piece as long as that costs less than a piece of its own, padding (but for 6 %) and all. With `share`
    an opening common to the whole step is counted once in a piece, which may then be four times as large.
    A longer example is a piece alone.
    """
    opening = shared_prompt(batch) if share else 0
    limit = 4 * max_tokens if opening else max_tokens
    pieces: list[list[EncodedExample]] = []
    padding = 0
    for example in sorted(batch, key=lambda e: (len(e.ids), e.id)):
        own = len(example.ids) - opening
        if pieces:
            n = len(pieces[-1])
            more = padding + n * (len(example.ids) - len(pieces[-1][-1].ids))
            if opening + own * (n + 1) <= limit and more <= _WASTE * own * (n + 1) + n * opening:
                pieces[-1].append(example)
                padding = more
                continue
        pieces.append([example])
        padding = 0
    return pieces


def pack_best_fit(batch: Sequence[EncodedExample], max_tokens: int) -> list[list[EncodedExample]]:
    """The examples of a step in rows of at most `max_tokens` real tokens: best-fit decreasing.

    Each row is laid end to end without padding (Krell et al. 2021, arXiv:2107.02027); a longer example
    is a row alone.
    """
    rows: list[list[EncodedExample]] = []
    room: list[int] = []
    for example in sorted(batch, key=lambda e: (-len(e.ids), e.id)):
        n = len(example.ids)
        fitting = [(left, i) for i, left in enumerate(room) if left >= n]
        if fitting:
            left, i = min(fitting)
            rows[i].append(example)
            room[i] = left - n
        else:
            rows.append([example])
            room.append(max_tokens - n)
    return rows


def share_of(batch: Sequence[EncodedExample], rank: int, n_ranks: int) -> list[EncodedExample]:
    """One process' part of a step: dealt out by length to and fro, so that the parts weigh alike."""
    order = sorted(batch, key=lambda e: (-len(e.ids), e.id))
    turn = [*range(n_ranks), *reversed(range(n_ranks))]
    return [example for i, example in enumerate(order) if turn[i % len(turn)] == rank]


def shared_prompt(batch: Sequence[EncodedExample]) -> int:
    """Tokens at the start of every prompt that are worth computing once; 0 where that saves too little.

    The last prompt token predicts the answer's first, so it is never part of it.
    """
    if len(batch) < 2:
        return 0
    limit = min(e.n_prompt for e in batch) - 1
    first, last = min(e.ids[:limit] for e in batch), max(e.ids[:limit] for e in batch)
    n = next((i for i, (a, b) in enumerate(zip(first, last, strict=True)) if a != b), limit)
    total = sum(len(e.ids) for e in batch)
    return n if n * (len(batch) - 1) >= _SHARED_AT_LEAST * total else 0
