"""Secrets at rest: encrypted with a key derived from the installation's secret, readable by Slipway alone."""

import base64
import hashlib
import json
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken


class SecretUnreadableError(Exception):
    """The stored secret was encrypted with another SECRET_KEY; it has to be entered again."""


@lru_cache(maxsize=4)
def _derived_key(secret_key: str) -> bytes:
    """Deriving is slow on purpose; once per process is enough."""
    derived = hashlib.scrypt(secret_key.encode(), salt=b"slipway.secrets.v1", n=2**12, r=8, p=1, dklen=32)
    return base64.urlsafe_b64encode(derived)


class Cipher:
    def __init__(self, secret_key: str) -> None:
        self._fernet = Fernet(_derived_key(secret_key))

    def encrypt(self, values: dict[str, str]) -> str:
        """Encrypt a mapping of names to secret values."""
        return self._fernet.encrypt(json.dumps(values).encode()).decode() if values else ""

    def decrypt(self, token: str) -> dict[str, str]:
        """The mapping that `encrypt` took. Raises SecretUnreadableError when the key has changed since."""
        if not token:
            return {}
        try:
            values: dict[str, str] = json.loads(self._fernet.decrypt(token.encode()))
        except InvalidToken:
            raise SecretUnreadableError(
                "The secret values were encrypted with another SECRET_KEY. Enter them again in a new version."
            ) from None
        return values
