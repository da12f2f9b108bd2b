"""Secrets at rest: encrypted with a key derived from one of the installation's, readable by Slipway alone."""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet


class SecretUnreadableError(Exception):
    """The stored secret was encrypted with a key that isn't known any more; it has to be entered again."""


@lru_cache(maxsize=32)
def _fernet(key: str) -> Fernet:
    """Deriving is slow on purpose; once per process is enough."""
    derived = hashlib.scrypt(key.encode(), salt=b"slipway.secrets.v1", n=2**12, r=8, p=1, dklen=32)
    return Fernet(base64.urlsafe_b64encode(derived))


class Cipher:
    """Encrypts with the first of `keys` and reads what any of them encrypted."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._first = _fernet(keys[0])
        self._fernet = MultiFernet([_fernet(key) for key in keys])

    def encrypt(self, values: dict[str, str]) -> str:
        """Encrypt a mapping of names to secret values."""
        return self._fernet.encrypt(json.dumps(values).encode()).decode() if values else ""

    def decrypt(self, token: str) -> dict[str, str]:
        """The mapping that `encrypt` took. Raises SecretUnreadableError when none of the keys is the one it was encrypted with."""
        if not token:
            return {}
        try:
            values: dict[str, str] = json.loads(self._fernet.decrypt(token.encode()))
        except InvalidToken:
            raise SecretUnreadableError(
                "The secret values were encrypted with a key that Slipway no longer has. Enter them again in a new version."
            ) from None
        return values

    def renew(self, token: str) -> str:
        """Its values under the first key: `token` itself where that is how they are. Raises SecretUnreadableError."""
        if not token:
            return token
        try:
            self._first.decrypt(token.encode())
        except InvalidToken:
            return self.encrypt(self.decrypt(token))
        return token
