"""What is in service, replaced whole while it serves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


class Live(Generic[T]):
    """A value made from a key (a cascade, from a version's id) that follows the key.

    Call it to get the value to use now. When the key has moved, the new value is made beside the old one, and takes
    its place by one assignment: who holds the old value finishes on it, nobody sees a mixture. With `background` it
    is made on a thread of its own and callers get the old value until it is ready; otherwise the caller waits.

    A new value that cannot be made is logged once, kept in `failure`, and the old one stays in service until the key
    moves again.
    """

    def __init__(self, key: Callable[[], str], make: Callable[[str], T], *, background: bool = False) -> None:
        self._key, self._make, self._background = key, make, background
        first = key()
        self._current: tuple[str, T] = (first, make(first))
        self._lock = threading.Lock()
        self._failed_key: str | None = None
        self.failure: Exception | None = None
        self._worker: threading.Thread | None = None

    def __call__(self) -> T:
        """The value to use now."""
        wanted = self._key()
        fresh = wanted not in (self._current[0], self._failed_key)
        if fresh and self._lock.acquire(blocking=not self._background):
            # The lock is held while a value is being made, by whoever makes it.
            if self._background:
                self._worker = threading.Thread(target=self._replace, args=(wanted,), daemon=True)
                self._worker.start()
            else:
                self._replace(wanted)
        return self._current[1]

    def wait(self) -> None:
        """Return when a value that is being made in the background is in place."""
        worker = self._worker
        if worker is not None:
            worker.join()

    def _replace(self, wanted: str) -> None:
        try:
            if self._current[0] != wanted:
                self._current = (wanted, self._make(wanted))
            self._failed_key, self.failure = None, None
        except Exception as error:
            self._failed_key, self.failure = wanted, error
            _LOG.warning("%s cannot be put in service, %s stays: %s", wanted, self._current[0], error)
        finally:
            self._lock.release()
