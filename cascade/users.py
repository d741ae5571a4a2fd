"""User keys: what stands for a user in traces, so that nobody's name or address is stored."""

from __future__ import annotations

import hashlib
import os

SALT_ENV = "CASCADE_DISTILL_USER_SALT"
"""Environment variable with a secret that the keys depend on; without it, who guesses a name can find its key."""


def user_key(name: str, salt: str | None = None) -> str:
    """The key of a user's name: keyed BLAKE2b, 32 hexadecimal digits; the salt is `SALT_ENV`'s by default."""
    secret = os.environ.get(SALT_ENV, "") if salt is None else salt
    return hashlib.blake2b(name.encode(), key=secret.encode()[:64], digest_size=16).hexdigest()
