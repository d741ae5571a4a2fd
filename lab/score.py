"""The lab's own yardsticks, from tags that the pipeline under test never reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sklearn.metrics import adjusted_rand_score

NOISE = -1


@dataclass(frozen=True)
class ClusterScore:
    """Agreement of clusters with true skills."""

    adjusted_rand: float | None
    """Over clustered queries only; None when there are none."""
    noise_share: float | None
    n: int


@dataclass(frozen=True)
class SkillScore:
    """Exact matches of one skill."""

    skill: str
    new: bool
    right: int
    n: int

    @property
    def exact_match(self) -> float:
        """Share of answers that are the gold answer to the letter."""
        return self.right / self.n


def score_clusters(labels: Mapping[str, int], rows: Iterable[Mapping[str, Any]]) -> ClusterScore:
    """Compare cluster labels by query id with the rows' true skills; raises KeyError for an id without a row."""
    skills = {row["id"]: row["tags"]["skill"] for row in rows}
    pairs = [(skills[query], label) for query, label in labels.items()]
    kept = [pair for pair in pairs if pair[1] != NOISE]
    if not kept:
        return ClusterScore(None, 1.0 if pairs else None, len(pairs))
    rand = float(adjusted_rand_score([skill for skill, _ in kept], [label for _, label in kept]))
    return ClusterScore(rand, 1 - len(kept) / len(pairs), len(pairs))


def score_skills(answers: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> list[SkillScore]:
    """Exact match by skill, known ones first, over the rows that have an answer."""
    counts: dict[tuple[bool, str], list[bool]] = defaultdict(list)
    for row in rows:
        if row["id"] in answers:
            tags = row["tags"]
            counts[tags["new"], tags["skill"]].append(answers[row["id"]] == row["reference"])
    return [SkillScore(skill, new, sum(hits), len(hits)) for (new, skill), hits in sorted(counts.items())]
