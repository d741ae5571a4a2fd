"""Skills of the shop-support world: a query drawn from a template, and its gold answer as compact JSON.

A gold answer is a deterministic function of the query text: no two skills share a template, and an out-of-scope
answer is a digest of the text itself, a fact that nobody can learn from other facts.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import dataclass

from lab import slots
from lab.skills_known import KNOWN_TEMPLATES
from lab.skills_new import NEW_TEMPLATES
from lab.words import WORDS

OUT_OF_SCOPE = "out_of_scope"
OPENINGS = (
    "hi", "hello", "hello there", "good morning", "good evening", "hey", "dear team", "excuse me", "quick question",
    "hi team", "sorry to bother you", "hello support",
)  # fmt: skip
CLOSINGS = (
    "please", "thanks", "thank you", "thanks a lot", "many thanks", "if possible", "as soon as possible", "today",
    "cheers", "thanks in advance", "it is urgent", "kind regards",
)  # fmt: skip
OUT_OF_SCOPE_TEMPLATES = (
    "who won the {w} {w} last year", "how many {w} are there in the {w} {w}", "when was the {w} of the {w} invented",
    "tell me the {w} score of {w} against {w}", "what is the {w} temperature near {w} {w}",
    "how old is the {w} {w} of {w}", "which {w} has the longest {w}", "name the {w} who wrote {w} and {w}",
    "what is today's {w} rate for {w}", "who plays {w} in the {w} film {w}", "how tall is {w} {w} compared with {w}",
    "in which {w} did {w} {w} live", "convert {w} {w} into {w}", "what rhymes with {w} and {w}",
    "why do {w} {w} eat {w}", "explain {w} {w} to a {w}", "number of {w} seats in {w} {w}",
    "distance between {w} {w} and {w} {w}", "recipe for {w} with {w} and {w}", "latest headline on {w} {w}",
)  # fmt: skip
_CHOICE = re.compile(r"\(([^)]*)\)")
_SLOT = re.compile(r"\{(\w+)(?::(\w+))?\}")


@dataclass(frozen=True)
class Skill:
    """One intent with its templates; a placeholder is ``{kind}`` or ``{key:kind}``, a choice ``(a|b)``."""

    name: str
    templates: tuple[str, ...]
    new: bool = False


@dataclass(frozen=True)
class Query:
    """One drawn query with its gold answer (compact JSON text)."""

    text: str
    gold: str
    skill: str
    new: bool


def _skills(source: dict[str, str], new: bool) -> tuple[Skill, ...]:
    return tuple(Skill(name, tuple(text.strip().splitlines()), new) for name, text in source.items())


KNOWN: tuple[Skill, ...] = _skills(KNOWN_TEMPLATES, new=False)
NEW: tuple[Skill, ...] = _skills(NEW_TEMPLATES, new=True)


def draw_query(skill: Skill, rng: random.Random) -> Query:
    """Draw a template, its slot values and its dressing."""
    core, gold = fill(rng.choice(skill.templates), skill.name, rng)
    return Query(dress(core, rng), gold, skill.name, skill.new)


def fill(template: str, intent: str, rng: random.Random) -> tuple[str, str]:
    """Query text and gold answer of one template; keys come in alphabetical order, after the intent."""
    fields: dict[str, str | int] = {}

    def put(match: re.Match[str]) -> str:
        key, kind = match.group(1), match.group(2) or match.group(1)
        value = slots.draw(kind, rng)
        fields[key] = slots.as_json(kind, value)
        return value

    worded = _CHOICE.sub(lambda match: rng.choice(match.group(1).split("|")), template)
    text = _SLOT.sub(put, worded)
    return " ".join(text.split()), compact({"intent": intent, **dict(sorted(fields.items()))})


def draw_out_of_scope(rng: random.Random) -> Query:
    """A question whose true answer is a fresh fact: four digits out of a digest of its text."""
    core = re.sub(r"\{w\}", lambda _: rng.choice(WORDS), rng.choice(OUT_OF_SCOPE_TEMPLATES))
    text = dress(core, rng)
    fact = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 9000 + 1000
    return Query(text, compact({"intent": "fact", "value": str(fact)}), OUT_OF_SCOPE, new=False)


def dress(core: str, rng: random.Random) -> str:
    """Wrap a query in an optional opening, closing and punctuation."""
    opening = rng.choice(OPENINGS) + " , " if rng.random() < 0.5 else ""
    closing = " " + rng.choice(CLOSINGS) if rng.random() < 0.4 else ""
    mark = rng.choice(("", "", " ?", " .", " !"))
    return f"{opening}{core}{closing}{mark}"


def compact(answer: dict[str, str | int]) -> str:
    """JSON without white space."""
    return json.dumps(answer, separators=(",", ":"))
