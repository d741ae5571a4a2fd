"""Texts that say almost the same: MinHash with banding (Broder 1997) finds candidates, exact overlap decides."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

_BANDS, _ROWS = 16, 4  # a pair of overlap 0.9 shares a band with probability 1 - (1 - 0.9^4)^16 > 0.9999
_PRIME = (1 << 31) - 1


class NearDuplicates:
    """The texts seen so far, and whether a new one is near one of them.

    Overlap is Jaccard's on sets of three words in a row, numbers kept: orders 12 and 13 in a sentence of ten
    words overlap by less than half, so templates with other values are not duplicates.
    """

    def __init__(self, overlap: float) -> None:
        self.overlap = overlap
        self._seen: list[frozenset[int]] = []
        self._bands: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        rng = np.random.default_rng(0)
        self._factor = rng.integers(1, _PRIME, _BANDS * _ROWS, dtype=np.int64)
        self._shift = rng.integers(0, _PRIME, _BANDS * _ROWS, dtype=np.int64)

    def add(self, text: str) -> bool:
        """Whether `text` is no near-duplicate of one kept before; it is kept then."""
        shingles = _shingles(text)
        keys = self._keys(shingles)
        candidates = {number for key in keys for number in self._bands.get(key, ())}
        if any(_jaccard(shingles, self._seen[number]) >= self.overlap for number in candidates):
            return False
        for key in keys:
            self._bands[key].append(len(self._seen))
        self._seen.append(shingles)
        return True

    def _keys(self, shingles: frozenset[int]) -> list[tuple[int, bytes]]:
        values: NDArray[np.int64] = np.fromiter(shingles, np.int64)
        hashed = (values[:, None] * self._factor + self._shift) % _PRIME
        least = hashed.min(axis=0).reshape(_BANDS, _ROWS)
        return [(band, row.tobytes()) for band, row in enumerate(least)]


def _shingles(text: str) -> frozenset[int]:
    words = re.findall(r"\w+|[^\w\s]", text.casefold()) or [""]
    runs = [words[i : i + 3] for i in range(max(1, len(words) - 2))]
    return frozenset(zlib.crc32(" ".join(run).encode()) & 0x7FFFFFFF for run in runs)


def _jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    return len(one & other) / len(one | other)
