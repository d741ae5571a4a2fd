"""Which query ids a lake holds, in eight bytes each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade.lake_log import LakeFile

if TYPE_CHECKING:
    from numpy.typing import NDArray


def hash_id(query_id: str) -> int:
    """64 bits of an id: BLAKE2b, the same everywhere."""
    return int.from_bytes(hashlib.blake2b(query_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class IdIndex:
    """Hashes of the ids in the live files, sorted; follows the log by reading only what is new."""

    def __init__(self) -> None:
        self._hashes: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._recent: list[NDArray[np.uint64]] = []
        self._seen: set[str] = set()

    def follow(self, files: Mapping[str, LakeFile], read: Callable[[list[LakeFile]], Any]) -> None:
        """Take in files not seen yet. Hashes of removed files may stay: what meets is looked up anyway."""
        fresh = [file for path, file in files.items() if path not in self._seen]
        if fresh:
            self._recent.append(np.sort(np.asarray(read(fresh), np.uint64)))
            self._seen |= {file.path for file in fresh}
        if sum(map(len, self._recent)) > max(100_000, len(self._hashes) // 8) or len(self._recent) > 64:
            self._hashes = np.unique(np.concatenate([self._hashes, *self._recent]))
            self._recent = []

    def among(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Those of `hashes` that some id has."""
        met = np.zeros(len(hashes), bool)
        for part in (self._hashes, *self._recent):
            if len(part):
                at = np.minimum(np.searchsorted(part, hashes), len(part) - 1)
                met |= part[at] == hashes
        return hashes[met]
