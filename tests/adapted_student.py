"""A tiny student with an adapter that does something, examples for it, and its loss by the plain definition."""

from __future__ import annotations

import random

import torch

from finetune.encode import EncodedExample
from finetune.preflight import plain_loss
from finetune.spec import TrainSpec
from finetune.student import load_student


def student(base, folder, **changes):
    values = {"base_model": base, "examples": folder / "e", "out": folder / "o", "rank": 4, "dtype": "float32"}
    _, made = load_student(TrainSpec(**(values | changes)), torch.device("cpu"))
    torch.manual_seed(1)
    for name, weight in made.named_parameters():
        if "lora_B" in name:  # zero at first, when lora_A would have no gradient to compare
            torch.nn.init.normal_(weight, std=0.1)
    return made.eval()


BATCH = [
    EncodedExample("a", (9, 8, 7, 6, 1), 3),
    EncodedExample("b", (9, 5, 4, 3, 2, 11, 12, 1), 2),
    EncodedExample("c", (30, 31, 1), 1),
]


def drawn(n, opening=0, seed=0):
    """Examples of 9 to 35 tokens behind an opening that all share."""
    rng = random.Random(seed)
    common = tuple(rng.randrange(5, 200) for _ in range(opening))
    own = [(rng.randint(3, 15), rng.randint(6, 20)) for _ in range(n)]
    return [
        EncodedExample(f"e{i}", (*common, *(rng.randrange(5, 200) for _ in range(p + c))), opening + p)
        for i, (p, c) in enumerate(own)
    ]


def alike(n):
    return [EncodedExample(f"e{i}", (*range(10, 190), 1), 100) for i in range(n)]


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def same_gradient(ours, wanted):
    """Of every matrix, to rounding: single numbers are sums that cancel."""
    assert ours.keys() == wanted.keys()
    for name, value in ours.items():
        assert (value - wanted[name]).norm() <= 1e-4 * wanted[name].norm(), name


def naive(model, batch):
    """Each example alone, all logits, the plain definition."""
    return sum(plain_loss(model, e) for e in batch)
