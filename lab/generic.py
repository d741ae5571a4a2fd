"""The generic share of pre-training: invented skills and plain extraction over a wide vocabulary.

Real base models have seen words and forms of every kind before they meet a shop. These tasks stand in for that: they
teach copying, key-value output and that new wording can mean a new schema, without any template of a shop skill.
"""

from __future__ import annotations

import random

from lab import slots
from lab.skills import Query, Skill, compact, draw_query, dress
from lab.words import WORDS


def invent_skills(count: int, rng: random.Random) -> tuple[Skill, ...]:
    """Invented intents: a name and keys of random words, six templates around a few theme words."""
    return tuple(_invent_skill(rng) for _ in range(count))


def _invent_skill(rng: random.Random) -> Skill:
    name = "_".join(rng.sample(WORDS, rng.choice((1, 2, 2))))
    kinds = rng.sample(slots.KINDS, rng.choice((1, 2, 2)))
    marks = [f"{{{key}:{kind}}}" for key, kind in zip(rng.sample(WORDS, len(kinds)), kinds, strict=True)]
    theme = rng.sample(WORDS, 6)
    filler = [
        "the",
        "a",
        "for",
        "my",
        "of",
        "to",
        "i",
        "want",
        "can",
        "you",
        "is",
        "in",
        "with",
        "on",
        "and",
        "please",
        "need",
    ]
    templates = []
    for _ in range(6):
        words = rng.sample(theme, rng.choice((2, 2, 3))) + rng.choices(filler, k=rng.randint(1, 4))
        parts = words + marks
        rng.shuffle(parts)
        templates.append(" ".join(parts))
    return Skill(name, tuple(templates), new=False)


def draw_extraction(rng: random.Random) -> Query:
    """A form that names its own intent and keys: the answer copies them all out of the text."""
    intent = rng.sample(WORDS, rng.choice((1, 2)))
    fields: dict[str, str | int] = {}
    parts: list[str] = []
    for key in sorted(rng.sample(WORDS, rng.choice((1, 2)))):
        kind = rng.choice(slots.KINDS)
        value = slots.draw(kind, rng)
        fields[key] = slots.as_json(kind, value)
        parts.append(f"{key} {value}")
    text = f"form {' '.join(intent)} : {' , '.join(parts)}"
    return Query(dress(text, rng), compact({"intent": "_".join(intent), **fields}), "extraction", False)


def draw_generic(count: int, invented: tuple[Skill, ...], rng: random.Random) -> list[Query]:
    """Queries of the generic share: three quarters from invented skills, the rest extraction."""
    return [
        draw_query(rng.choice(invented), rng) if rng.random() < 0.75 else draw_extraction(rng) for _ in range(count)
    ]
