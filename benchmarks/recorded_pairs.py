"""Champion and candidate cascades made of models' recorded answers, as populations whose truth is known.

Each cascade is a cheap model, a verifier that accepts an answer when a second cheap model gives the same one, and a
flagship. The candidate is the champion with another cheap model on a part of the queries, as an adapter that learnt
that part. Costs are estimates: characters / 4 as tokens, at the prices below.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.table import BoolArray, FloatArray, PairedTable, SideTable

DATA = Path(__file__).parents[1].parent / "shared" / "datasets"
SMALL, LARGE = (0.15, 0.60), (3.0, 15.0)
"""USD per million tokens, in and out: a small model's and a flagship's order of list prices."""
LEARNT = 0.4
"""Share of the queries on which the candidate answers with its own cheap model."""


@dataclass(frozen=True, slots=True)
class World:
    """One population of paired rows."""

    name: str
    what: str
    table: PairedTable
    cluster_kind: str


@dataclass(frozen=True, slots=True)
class _Models:
    """Answers of four recorded models to the same queries, each of shape (n,)."""

    ids: Sequence[str]
    champion_right: BoolArray
    champion_agrees: BoolArray
    candidate_right: BoolArray
    candidate_agrees: BoolArray
    flagship_right: BoolArray
    champion_usd: FloatArray
    candidate_usd: FloatArray
    flagship_usd: FloatArray
    cluster: NDArray[np.int64]


def worlds() -> Iterator[World]:
    """Every world whose data is there; the lab-like one always."""
    if (DATA / "zeroeval").is_dir():
        for task, names in (
            ("gsm", ("Meta-Llama-3-8B-Instruct", "gpt-3.5-turbo-0125", "claude-3-5-sonnet-20241022", "gemma-2-2b-it")),
            (
                "crux",
                ("gpt-3.5-turbo-0125", "claude-3-haiku-20240307", "gpt-4o-2024-08-06", "Meta-Llama-3-8B-Instruct"),
            ),
        ):
            yield _world(f"zeroeval {task}", _zeroeval(task, *names), "length of the question, 8 bins", names)
    if (DATA / "mmlu_pro_replay").is_dir():
        names = ("Meta-Llama-3_1-8B-Instruct", "Meta-Llama-3_1-70B-Instruct", "gemini-1.5-pro-002",
                 "Phi-3-mini-4k-instruct")  # fmt: skip
        yield _world("mmlu-pro", _mmlu_pro(*names), "14 subjects", names)
    if (DATA / "routellm").is_dir():
        names = ("Mixtral-8x7B", "Mixtral-8x7B (other verifier)", "gpt-4-1106-preview", "a noisy verifier")
        yield _world("routellm mmlu", _routellm(), "14 largest subjects", names)
    yield World("lab-like", "simulated: 40 % escalate, 3 % of accepted wrong", lab_like(), "12 drawn at random")


def _world(name: str, models: _Models, cluster_kind: str, names: Sequence[str]) -> World:
    cheap, other, flagship, helper = names
    what = f"{cheap}, {other} on {LEARNT:.0%}; accepted when {helper} agrees; else {flagship}"
    return World(name, what, paired(models), cluster_kind)


def paired(models: _Models) -> PairedTable:
    """The two cascades over the same queries."""
    learnt = np.array([_part(i) < LEARNT for i in models.ids])
    right = np.where(learnt, models.candidate_right, models.champion_right)
    agrees = np.where(learnt, models.candidate_agrees, models.champion_agrees)
    usd = np.where(learnt, models.candidate_usd, models.champion_usd)

    def side(accepted: BoolArray, cheap: BoolArray, cost: FloatArray) -> SideTable:
        served = np.where(accepted, cheap, models.flagship_right)
        paid = cost + np.where(accepted, 0.0, models.flagship_usd)
        return SideTable(accepted, cheap.astype(float), served.astype(float), paid)

    return PairedTable(
        side(models.champion_agrees, models.champion_right, models.champion_usd),
        side(agrees, right, usd),
        models.flagship_usd,
        models.cluster,
    )


def _zeroeval(task: str, cheap: str, other: str, flagship: str, helper: str) -> _Models:
    rows = _jsonl(DATA / "zeroeval" / f"{task}_replay.jsonl")
    by_model = {m: [row["models"][m] for row in rows] for m in (cheap, other, flagship, helper)}

    def right(model: str) -> BoolArray:
        return np.array([bool(a["correct"]) for a in by_model[model]])

    def agrees(model: str) -> BoolArray:
        pairs = zip(by_model[model], by_model[helper], strict=True)
        return np.array([a["answer"] is not None and str(a["answer"]) == str(b["answer"]) for a, b in pairs])

    def usd(model: str, price: tuple[float, float]) -> FloatArray:
        return np.array([_usd(a["prompt_chars"], a["out_chars"], price) for a in by_model[model]])

    second = usd(helper, SMALL)
    lengths = np.array([row["models"][cheap]["prompt_chars"] for row in rows])
    bins = np.searchsorted(np.quantile(lengths, np.linspace(0, 1, 9)[1:-1]), lengths)
    return _Models(
        [str(row["id"]) for row in rows], right(cheap), agrees(cheap), right(other), agrees(other), right(flagship),
        usd(cheap, SMALL) + second, usd(other, SMALL) + second, usd(flagship, LARGE), bins.astype(np.int64),
    )  # fmt: skip


def _mmlu_pro(cheap: str, other: str, flagship: str, helper: str) -> _Models:
    names = (cheap, other, flagship, helper)
    path = DATA / "mmlu_pro_replay" / "mmlu_pro_replay.jsonl"
    rows = [row for row in _jsonl(path) if all(m in row["models"] for m in names)]
    # Lengths are recorded for the Gemini models alone: the others are taken to write as much as its flash model.
    written = [row["models"].get("gemini-1.5-flash-002", {}).get("output_chars") or 368 for row in rows]
    asked = [len(row["question"]) + sum(map(len, row["options"])) for row in rows]
    small = np.array([2 * _usd(q, w, SMALL) for q, w in zip(asked, written, strict=True)])
    large = np.array(
        [_usd(q, row["models"][flagship]["output_chars"] or 271, LARGE) for q, row in zip(asked, rows, strict=True)]
    )

    def right(model: str) -> BoolArray:
        return np.array([bool(row["models"][model]["correct"]) for row in rows])

    def agrees(model: str) -> BoolArray:
        pairs = [(row["models"][model]["pred"], row["models"][helper]["pred"]) for row in rows]
        return np.array([a is not None and a == b for a, b in pairs])

    _, cluster = np.unique([row["category"] for row in rows], return_inverse=True)
    return _Models(
        [str(row["question_id"]) for row in rows], right(cheap), agrees(cheap), right(other), agrees(other),
        right(flagship), small, small, large, cluster.astype(np.int64),
    )  # fmt: skip


def _routellm() -> _Models:
    """Two cascades of one cheap model whose verifiers differ in their noise: only correctness was recorded."""
    files = sorted((DATA / "routellm" / "mmlu").glob("*.csv"), key=lambda f: -f.stat().st_size)
    parts = [(f.stem, list(csv.DictReader(io.StringIO(f.read_text(encoding="utf-8"))))) for f in files]
    parts = sorted(parts, key=lambda part: -len(part[1]))[:14]
    rows = [(i, row) for i, (_, part) in enumerate(parts) for row in part]
    cheap = np.array([row["mistralai/Mixtral-8x7B-Instruct-v0.1"] == "True" for _, row in rows])
    flagship = np.array([row["gpt-4-1106-preview"] == "True" for _, row in rows])
    asked = [len(row["prompt"]) for _, row in rows]
    small = np.array([_usd(q, 4, SMALL) for q in asked])
    large = np.array([_usd(q, 4, LARGE) for q in asked])
    rng = np.random.default_rng(20)
    shared = rng.normal(size=len(rows)) + 1.8 * cheap
    accepts = [shared + 0.5 * rng.normal(size=len(rows)) > cut for cut in (1.0, 0.9)]
    return _Models(
        [f"{i}-{place}" for place, (i, _) in enumerate(rows)], cheap, accepts[0], cheap, accepts[1], flagship,
        small, small, large, np.array([i for i, _ in rows], dtype=np.int64),
    )  # fmt: skip


def lab_like(n: int = 20_000, seed: int = 7) -> PairedTable:
    """Traffic like the lab's: 40 % escalate, the flagship is the reference, log-normal prices of a question."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    own = np.where(rng.random(n) < 0.15, rng.random(n), hard)
    luck = rng.random(n)
    own_luck = np.where(rng.random(n) < 0.7, rng.random(n), luck)
    large, small = 0.004 * rng.lognormal(0, 0.4, n), 0.0002 * rng.lognormal(0, 0.2, n)

    def side(accepted: BoolArray, wrong: BoolArray) -> SideTable:
        cheap = np.where(accepted, ~wrong, rng.random(n) < 0.5).astype(float)
        return SideTable(accepted, cheap, np.where(accepted, cheap, 1.0), small + ~accepted * large)

    return PairedTable(
        side(hard >= 0.40, luck < 0.03), side(own >= 0.32, own_luck < 0.03), large, rng.integers(0, 12, n)
    )


def _part(query_id: str) -> float:
    return int.from_bytes(hashlib.sha256(query_id.encode()).digest()[:8], "big") / 2**64


def _usd(chars_in: int, chars_out: int, price: tuple[float, float]) -> float:
    return (chars_in * price[0] + chars_out * price[1]) / 4e6


def _jsonl(path: Path) -> list[dict[str, Any]]:
    # Not splitlines: the texts hold other line separators.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
