"""Retention and delete-by-user: what is held of somebody or of a time, where, and what was trained on it.

A user's queries are found in the trace store and in the runs' own copies of traces; with them go the flagship's answers
to them, in the answer store and in the learned verifiers that compare with them, the judges' replies about them, the
cached embeddings of their texts and, on request, the folders of runs that hold copies. Adapters cannot forget: they are
listed, with those trained from them, so that somebody can decide to roll back or to train anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cascade.request import OpenAITierConfig, request_digest
from cascade.trace import Query, query_from_dict
from cascade.users import user_key
from cascade.verifiers import HeldBank, forget_entries, held_banks, standing
from clustering.embed import cached_texts, forget_texts
from evaluation.judge import question_ids
from flows.config import RunConfig
from flows.context import State, open_state
from flows.records import BUILD, COLLECT, TRAIN, arm_stages
from flows.rundir import read_json
from flows.watching import forget_queries
from promotion.registry import Version

EMBEDDINGS = "embeddings.db"
VERIFIERS = "verifiers"


@dataclass(frozen=True, slots=True)
class Whose:
    """Which traces to forget: one user's (by name or key), or anybody's from before a time, or both."""

    user: str | None = None
    before: datetime | None = None

    @property
    def keys(self) -> list[str] | None:
        """The key as given, and the one that a name was hashed to on import."""
        return None if self.user is None else [self.user, user_key(self.user)]

    def covers(self, query: Query) -> bool:
        """Whether a query is to be forgotten."""
        of_user = self.keys is None or query.user in self.keys
        return of_user and (self.before is None or query.time < self.before)


@dataclass(frozen=True, slots=True)
class HeldRun:
    """A run whose folder holds copies of what is to be forgotten."""

    run_id: str
    folder: Path
    n_traces: int
    n_trained: int
    """Examples of its training set."""
    n_examples: int
    """Size of that set."""


@dataclass(frozen=True, slots=True)
class TouchedAdapter:
    """A registered adapter that was trained on what is to be forgotten, or may have been."""

    version: str
    adapter_digest: str
    why: str


@dataclass(frozen=True, slots=True)
class TouchedVerifier:
    """A stored verifier (or router) that compares with answers to what is to be forgotten."""

    bank: HeldBank
    versions: tuple[str, ...]
    """Registered versions that serve with it; none where only runs know it."""


@dataclass(frozen=True, slots=True)
class ForgetPlan:
    """What would be deleted, and what would stay."""

    traces: tuple[Query, ...]
    copies: tuple[Query, ...]
    """Queries that only the runs still hold."""
    answers: tuple[str, ...]
    """Digests of stored flagship answers."""
    replies: tuple[str, ...]
    """Digests of stored replies of judges."""
    n_vectors: int
    runs: tuple[HeldRun, ...]
    adapters: tuple[TouchedAdapter, ...]
    verifiers: tuple[TouchedVerifier, ...]

    @property
    def texts(self) -> list[str]:
        return sorted({query.text for query in (*self.traces, *self.copies)})


def plan_forget(config: RunConfig, whose: Whose) -> ForgetPlan:
    """Look everywhere; deletes nothing."""
    state = open_state(config)
    traces = tuple(state.traces.queries(whose.keys, whose.before))
    ids = {query.id for query in traces}
    copies: dict[str, Query] = {}
    held: list[HeldRun] = []
    tiers = {config.flagship.model_dump_json(): config.flagship}
    for root in _run_folders(config.runs):
        copied = [query for query in _copied(root) if query.id in ids or whose.covers(query)]
        copies |= {query.id: query for query in copied if query.id not in ids}
        trained = _trained_ids(root)
        n_trained = sum(i in ids or i in copies for i in trained)
        if copied or n_trained:
            held.append(HeldRun(root.name, root, len(copied), n_trained, len(trained)))
            tier = OpenAITierConfig.model_validate(read_json(root / "run.json")["config"]["flagship"])
            tiers[tier.model_dump_json()] = tier
    queries = [*traces, *copies.values()]
    digests = {request_digest(query, tier) for query in queries for tier in tiers.values()}
    texts = {query.text for query in queries}
    asked = {i for query in queries for i in (query.id, *question_ids(query.id))}
    versions = state.registry.versions()
    return ForgetPlan(
        traces=traces,
        copies=tuple(copies.values()),
        answers=tuple(sorted(state.answers.held(digests))),
        replies=tuple(sorted(state.answers.about(asked))),
        n_vectors=cached_texts(state.root / EMBEDDINGS, texts),
        runs=tuple(held),
        adapters=tuple(_touched(versions, {run.run_id: run for run in held}, config.runs)),
        verifiers=tuple(_comparing(state.root / VERIFIERS, {query.id for query in queries}, versions)),
    )


def forget(config: RunConfig, plan: ForgetPlan, *, runs: bool) -> None:
    """Delete what `plan` found; `runs` deletes the run folders too. Killed midway, the same call finds the rest."""
    state: State = open_state(config)
    state.answers.remove([*plan.answers, *plan.replies])
    forget_texts(state.root / EMBEDDINGS, plan.texts)
    for verifier in plan.verifiers:
        forget_entries(state.root / VERIFIERS, verifier.bank)
    forget_queries(state, [query.id for query in (*plan.traces, *plan.copies)])
    # What finds the rest comes last: traces, and the runs' copies.
    for run in plan.runs if runs else ():
        shutil.rmtree(run.folder)
    state.traces.remove([query.id for query in plan.traces])


def _comparing(root: Path, ids: Collection[str], versions: Sequence[Version]) -> Iterator[TouchedVerifier]:
    """Stored verifiers with answers to these queries, and the versions that each of them serves."""
    serves: dict[str | None, list[str]] = {}
    for version in versions:
        for digest in {standing(root, digest)[0] for digest in _digests(version.verifier)}:
            serves.setdefault(digest, []).append(version.id)
    for bank in held_banks(root, ids):
        yield TouchedVerifier(bank, tuple(serves.get(bank.digest, ())))


def _digests(record: Any) -> Iterator[str]:
    """Digests of the parts that a verifier's record names, wherever they stand in it."""
    values = record.values() if isinstance(record, dict) else record if isinstance(record, list) else ()
    for value in values:
        yield from _digests(value)
    if isinstance(record, dict) and isinstance(record.get("digest"), str):
        yield record["digest"]


def _run_folders(runs: Path) -> list[Path]:
    return sorted(path.parent for path in runs.glob("*/run.json"))


def _copied(root: Path) -> Iterator[Query]:
    for part in ("pool", "calibration", "heldout"):
        for row in _rows(root / COLLECT / f"{part}.jsonl"):
            yield query_from_dict(row["query"])


def _trained_ids(root: Path) -> set[str]:
    """Query ids of the run's training sets: its own, and those of a comparison's arms."""
    folders = [root / BUILD, *arm_stages(root, BUILD)]
    return {row["id"] for folder in folders for row in _rows(folder / "training.jsonl")}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file)


def _touched(versions: Sequence[Version], held: Mapping[str, HeldRun], runs: Path) -> Iterator[TouchedAdapter]:
    """Versions in order of registration, so that what an adapter was trained from comes before it."""
    touched: dict[str, str] = {}
    for version in versions:
        if version.adapter_digest is None:
            continue
        run = held.get(version.run_id or "")
        if run is not None and run.n_trained:
            why = f"trained on {run.n_trained} of {run.n_examples} examples of run {run.run_id}"
        elif not (runs / str(version.run_id) / "run.json").exists():
            why = f"unknown: the folder of run {version.run_id} is gone, and with it what it was trained on"
        else:
            parent = touched.get(_trained_from(runs / str(version.run_id)) or "")
            if parent is None:
                continue
            why = f"trained from {parent}"
        touched[version.adapter_digest] = version.id
        yield TouchedAdapter(version.id, version.adapter_digest, why)


def _trained_from(root: Path) -> str | None:
    manifest = root / TRAIN / "manifest.json"
    return read_json(manifest)["config"].get("init") if manifest.exists() else None
