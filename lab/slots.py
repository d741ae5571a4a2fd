"""Slot kinds of the shop: closed pools of values, and numbers that are told apart by their range."""

from __future__ import annotations

import random

_POOLS = {
    "product": "lamp desk chair sofa kettle toaster blender camera laptop phone tablet printer monitor keyboard "
    "headset backpack jacket tent bicycle drill",
    "colour": "red blue green black white grey brown yellow purple orange",
    "size": "tiny small medium large huge",
    "city": "berlin paris rome london madrid vienna oslo prague dublin lisbon athens warsaw",
    "weekday": "monday tuesday wednesday thursday friday saturday sunday",
    "month": "january february march april june july august september october november december",
    "payment": "visa paypal mastercard invoice cash klarna",
}
POOLS: dict[str, tuple[str, ...]] = {kind: tuple(values.split()) for kind, values in _POOLS.items()}
RANGES: dict[str, tuple[int, int]] = {"order": (1000, 9999), "amount": (20, 99), "quantity": (2, 19)}
INTEGER_KINDS = frozenset({"amount", "quantity"})
KINDS: tuple[str, ...] = (*POOLS, *RANGES)


def draw(kind: str, rng: random.Random) -> str:
    """One value of a slot kind, as it stands in a query."""
    if kind in POOLS:
        return rng.choice(POOLS[kind])
    low, high = RANGES[kind]
    return str(rng.randint(low, high))


def as_json(kind: str, value: str) -> str | int:
    """The value as it stands in an answer: counts and amounts are integers, order numbers stay strings."""
    return int(value) if kind in INTEGER_KINDS else value
