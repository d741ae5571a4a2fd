"""Which part of the traffic a query belongs to, known before anybody answers it: k-means cells of earlier queries.

A student that over-claims does so in single parts of the traffic. `cascade.calibration.groups` shifts the score of
each; here is who belongs where. The cells are made of queries that are in no part of the calibration split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cascade.trace import Query
from cascade.verifiers.bank import Embed
from cascade.verifiers.parts import read_part
from cascade.verifiers.score import TooLittleData

QUERIES_PER_CELL = 30
"""Fewer queries would make cells that few graded answers fall into."""


@dataclass(frozen=True, eq=False)
class QueryGroups:
    """Cells of the embedding space."""

    centres: NDArray[np.float32]
    """(k, d)."""
    embed: Embed
    file: ClassVar[str] = "groups.safetensors"

    @classmethod
    def fit(cls, queries: Sequence[Query], embed: Embed, cells: int, seed: int = 0) -> QueryGroups:
        """At most `cells` cells, one per `QUERIES_PER_CELL` different texts. Raises TooLittleData below two."""
        from sklearn.cluster import KMeans

        texts = sorted({query.text for query in queries})
        k = min(cells, len(texts) // QUERIES_PER_CELL)
        if k < 2:
            raise TooLittleData(
                f"{len(texts)} different earlier queries, at least {2 * QUERIES_PER_CELL} are needed to group by"
            )
        fitted = KMeans(k, n_init=3, random_state=seed).fit(embed(texts))
        return cls(np.asarray(fitted.cluster_centers_, np.float32), embed)

    def of(self, queries: Sequence[Query]) -> list[str]:
        """Name of the nearest cell of each query."""
        if not queries:
            return []
        vectors = np.asarray(self.embed([query.text for query in queries]), np.float32)
        # |v - c|^2 less |v|^2, which is the same for every cell.
        distance = (self.centres**2).sum(axis=1) - 2 * vectors @ self.centres.T
        return [f"cell-{cell}" for cell in distance.argmin(axis=1).tolist()]

    @cached_property
    def content(self) -> bytes:
        """The cells as one safetensors file."""
        from safetensors.numpy import save

        return save({"centres": np.ascontiguousarray(self.centres)})

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content: the name of the folder that keeps it."""
        return hashlib.sha256(self.content).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"kind": "groups", "digest": self.digest, "cells": len(self.centres)}


def read_groups(root: Path, digest: str, embed: Embed) -> QueryGroups:
    """The groups kept under root/<digest>. Raises InputError where they are missing or altered."""
    from safetensors.numpy import load

    return QueryGroups(load(read_part(root, digest, QueryGroups.file))["centres"], embed)
