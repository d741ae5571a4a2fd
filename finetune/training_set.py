"""Bought answers and the student's own best ones, filtered into a training set."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cascade.errors import ConfigError, InputError
from cascade.grade import GradeKind, grade
from cascade.trace import Answer, Message, Query, Trace
from cascade.verifiers import RulesConfig, rule_reasons
from finetune.near_duplicates import NearDuplicates
from finetune.redact import redact_texts

Source = Literal["flagship", "replay"]
OVERLAP, NEAR_DUPLICATE = "overlaps a held-out query", "near-duplicate"
_REPLAY_POOL_LIMIT = 5000  # candidates looked at for diversity


class TrainingSetConfig(BaseModel):
    """What goes into a training set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher_permission: str = ""
    """On what ground the flagship's answers may be trained on (licence, contract); kept with the set."""
    replay_ratio: float = Field(default=1.0, ge=0)
    """Replayed answers per flagship answer kept; 0: none."""
    min_replay: int = Field(default=0, ge=0)
    """Replayed answers at least, as far as the pool has them: what is to be kept does not shrink with the answers."""
    max_replay: int | None = Field(default=None, ge=0)
    replay_min_confidence: float = Field(default=0.5, ge=0, le=1)
    """Quantile of the pool's mean log-prob below which the student's own answers are not replayed."""
    max_characters: int = Field(default=20_000, ge=1)
    """Longest prompt and answer together."""
    near_duplicate_overlap: float | None = Field(default=0.9, gt=0, le=1)
    """Share of three-word runs (Jaccard) from which a query counts as one that is there already; None keeps all."""
    per_user_cap: int | None = Field(default=None, ge=1)
    """Most examples of one user, flagship's and replayed together; queries without a user key are not capped."""
    redact_pii: bool = True
    grade_kind: GradeKind = "json_exact"
    """How an audited answer is compared with the flagship's."""
    rules: RulesConfig = RulesConfig()


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One conversation with the answer to learn."""

    id: str
    messages: tuple[Message, ...]
    answer: str
    source: Source
    cluster: int | None = None


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Examples in a seeded order, what was left out and why, and counts for the manifest."""

    examples: tuple[TrainingExample, ...]
    dropped: tuple[tuple[str, str], ...]
    """(query id, reason)."""
    counts: dict[str, int]
    """flagship, replay, heldout_overlap, near_duplicates, redacted_email, redacted_phone, redacted_card, dropped."""
    teacher_permission: str


def build_training_set(
    selected: Sequence[tuple[Query, Answer]],
    replay_pool: Sequence[Trace],
    heldout_texts: Iterable[str],
    config: TrainingSetConfig,
    seed: int,
    *,
    clusters: Mapping[str, int] | None = None,
) -> TrainingSet:
    """Filter the flagship's answers, add replay in proportion, redact, and shuffle by `seed`.

    `heldout_texts` are the query texts of every held-out slice; an equal text (case, white space and
    punctuation aside) is left out. `clusters` names the cluster of a query id. Raises ConfigError without a
    teacher permission and InputError when no flagship answer is left.
    """
    if not config.teacher_permission.strip():
        raise ConfigError("teacher_permission is empty; say on what ground the flagship's answers may be trained on.")
    gate = _Gate(config, {normalise(text) for text in heldout_texts})
    taught, dropped = gate.filter(selected, "flagship")
    if not taught:
        raise InputError(f"None of {len(selected)} flagship answers passed the filters; see the dropped rows.")
    n_replay = n_to_replay(len(taught), config)
    own, own_dropped = gate.filter(_replayable(replay_pool, config), "replay")
    replayed = _diverse(own, n_replay, seed)
    names = clusters or {}
    examples = [replace(e, cluster=names.get(e.id)) for e in [*taught, *replayed]]
    redactions: Counter[str] = Counter()
    if config.redact_pii:
        examples = [_redact(e, redactions) for e in examples]
    random.Random(seed).shuffle(examples)
    dropped += own_dropped
    counts = {"flagship": len(taught), "replay": len(replayed), "dropped": len(dropped)}
    reasons = Counter(reason for _, reason in dropped)
    counts |= {"heldout_overlap": reasons[OVERLAP], "near_duplicates": reasons[NEAR_DUPLICATE]}
    counts |= {f"redacted_{kind}": redactions[kind] for kind in ("email", "phone", "card")}
    return TrainingSet(tuple(examples), tuple(dropped), counts, config.teacher_permission)


def n_to_replay(n_taught: int, config: TrainingSetConfig) -> int:
    """How many of the student's own answers go with so many of the flagship's."""
    if config.replay_ratio == 0:
        return 0
    wanted = max(round(config.replay_ratio * n_taught), config.min_replay)
    return wanted if config.max_replay is None else min(wanted, config.max_replay)


def normalise(text: str) -> str:
    """Text with case, Unicode form, punctuation and white space levelled: equal for trivially equal texts."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded)) or folded.strip()


def passes_rules(query: Query, answer: Answer, rules: RulesConfig) -> tuple[bool, str]:
    """(keep, reason): not truncated, refused, empty, or against the query's schema."""
    reasons = rule_reasons(query, answer, rules)
    return not reasons, "; ".join(reasons)


def is_fitting(query: Query, answer: Answer, max_characters: int) -> tuple[bool, str]:
    """(keep, reason): there is a user text, and the whole is not longer than `max_characters`."""
    if not query.text.strip():
        return False, "empty query"
    n = sum(len(m["content"]) for m in query.messages) + len(answer.text)
    return n <= max_characters, f"longer than {max_characters} characters"


def is_clean(query: Query, heldout: set[str]) -> tuple[bool, str]:
    """(keep, reason): its text is in no held-out slice (`heldout` normalised)."""
    return normalise(query.text) not in heldout, OVERLAP


def is_new(query: Query, seen: set[str]) -> tuple[bool, str]:
    """(keep, reason): no example before had the same conversation. Adds it to `seen`."""
    key = "\n".join(f"{m['role']}: {normalise(m['content'])}" for m in query.messages)
    new = key not in seen
    seen.add(key)
    return new, "duplicate"


def is_unlike(query: Query, before: NearDuplicates | None) -> tuple[bool, str]:
    """(keep, reason): no example before asks almost the same. Adds it to `before`."""
    return before is None or before.add(query.text), NEAR_DUPLICATE


def is_within_cap(query: Query, users: Counter[str], cap: int | None) -> tuple[bool, str]:
    """(keep, reason): its user has fewer than `cap` examples. Counts it."""
    if cap is None or query.user is None:
        return True, ""
    users[query.user] += 1
    return users[query.user] <= cap, f"its user has {cap} examples already"


def heldout_key(text: str) -> str:
    """Digest by which a held-out query is known again, without its text being kept."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()


def write_heldout_keys(path: Path, texts: Iterable[str]) -> None:
    """One key a line, sorted; whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(key + "\n" for key in sorted({heldout_key(text) for text in texts}))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def user_text(example: TrainingExample) -> str:
    """The last user message of an example."""
    return next((m["content"] for m in reversed(example.messages) if m["role"] == "user"), "")


def write_training_examples(path: Path, examples: Iterable[TrainingExample]) -> None:
    """Write JSONL, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(e), ensure_ascii=False) + "\n" for e in examples)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_training_examples(path: Path) -> list[TrainingExample]:
    """Inverse of `write_training_examples`. Raises InputError naming the line that cannot be used."""
    if not path.is_file():
        raise InputError(f"The training set {path} is missing; build it first.")
    examples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
            examples.append(TrainingExample(**{**row, "messages": tuple(row["messages"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"Line {number} of {path} is no training example ({error}); rebuild it.") from error
    return examples


class _Gate:
    """The filters with what they remember; whatever passes is remembered for the next."""

    def __init__(self, config: TrainingSetConfig, heldout: set[str]) -> None:
        self.config, self.heldout = config, heldout
        self.seen: set[str] = set()
        overlap = config.near_duplicate_overlap
        self.near = None if overlap is None else NearDuplicates(overlap)
        self.users: Counter[str] = Counter()

    def filter(
        self, pairs: Iterable[tuple[Query, Answer]], source: Source
    ) -> tuple[list[TrainingExample], list[tuple[str, str]]]:
        """Examples kept, and (query id, reason) of the others."""
        kept, dropped = [], []
        for query, answer in pairs:
            reason = next((why for keep, why in self._checks(query, answer) if not keep), None)
            if reason is None:
                kept.append(TrainingExample(query.id, query.messages, answer.text, source))
            else:
                dropped.append((query.id, reason))
        return kept, dropped

    def _checks(self, query: Query, answer: Answer) -> Iterator[tuple[bool, str]]:
        """From the cheapest on; those that remember come last, so that only what is kept counts against others."""
        yield is_fitting(query, answer, self.config.max_characters)
        yield passes_rules(query, answer, self.config.rules)
        yield is_clean(query, self.heldout)
        yield is_new(query, self.seen)
        yield is_unlike(query, self.near)
        yield is_within_cap(query, self.users, self.config.per_user_cap)


def _replayable(pool: Sequence[Trace], config: TrainingSetConfig) -> list[tuple[Query, Answer]]:
    """The student's accepted answers that no audit proved wrong, the more confident part, surest first."""
    good = [t for t in pool if not t.escalated and t.verdict.accepted and not _audited_wrong(t, config.grade_kind)]
    rated = [
        (t.cheap.confidence.mean_logprob, t.query, t.cheap)
        for t in good
        if t.cheap is not None and t.cheap.confidence is not None
    ]
    if not rated:
        return []
    floor = float(np.quantile([score for score, _, _ in rated], config.replay_min_confidence))
    rated.sort(key=lambda row: (-row[0], row[1].id))
    return [(query, cheap) for score, query, cheap in rated if score >= floor]


def _audited_wrong(trace: Trace, kind: GradeKind) -> bool:
    if not trace.audited or trace.flagship is None or trace.cheap is None:
        return False
    return grade(trace.cheap.text, trace.flagship.text, kind) < 1.0


def _diverse(examples: Sequence[TrainingExample], n: int, seed: int) -> list[TrainingExample]:
    """n examples spread over kinds of text: k-means on TF-IDF, then one of each group in turn."""
    if n >= len(examples):
        return list(examples)
    if n <= 0:
        return []
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer

    rng = random.Random(seed)
    candidates = rng.sample(list(examples), min(len(examples), max(_REPLAY_POOL_LIMIT, 2 * n)))
    texts = [re.sub(r"\d+", "0", user_text(e)) for e in candidates]
    vectors = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", max_features=2000).fit_transform(texts)
    k = min(len(set(texts)), n, max(1, round(len(candidates) ** 0.5)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct texts than groups is no harm
        labels = MiniBatchKMeans(k, random_state=seed, n_init=3, batch_size=1024).fit_predict(vectors)
    groups: dict[int, list[TrainingExample]] = {}
    for label, example in zip(labels, candidates, strict=True):
        groups.setdefault(int(label), []).append(example)
    rounds = max(len(group) for group in groups.values())
    turns = [group[i] for i in range(rounds) for _, group in sorted(groups.items()) if i < len(group)]
    return turns[:n]


def _redact(example: TrainingExample, redactions: Counter[str]) -> TrainingExample:
    texts, counts = redact_texts([*(m["content"] for m in example.messages), example.answer])
    redactions.update(counts)
    messages = tuple({**m, "content": text} for m, text in zip(example.messages, texts, strict=False))
    return replace(example, messages=messages, answer=texts[-1])
