"""The texts that the base model and the embedder are trained on, as a function of a seed alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lab.generic import draw_generic, invent_skills
from lab.skills import KNOWN, NEW, Query, draw_out_of_scope, draw_query


@dataclass(frozen=True)
class CorpusSize:
    """Numbers of training queries; the defaults are those of the committed models."""

    known: int = 34_000
    generic: int = 10_000
    invented_skills: int = 80
    embedder: int = 20_000


def base_training_queries(seed: int, size: CorpusSize = CorpusSize()) -> list[Query]:
    """What the base model sees: known skills and the generic share, never a new skill."""
    rng = random.Random(f"base-{seed}")
    invented = invent_skills(size.invented_skills, rng)
    known = [draw_query(rng.choice(KNOWN), rng) for _ in range(size.known)]
    return known + draw_generic(size.generic, invented, rng)


def embedder_texts(seed: int, size: CorpusSize = CorpusSize()) -> list[str]:
    """Unlabelled text of every kind, as a public embedder has seen the whole language; no label goes with it."""
    rng = random.Random(f"embedder-{seed}")
    skills = KNOWN + NEW
    return [
        draw_query(rng.choice(skills), rng).text if rng.random() < 0.9 else draw_out_of_scope(rng).text
        for _ in range(size.embedder)
    ]
