"""Secrets that are shown once: 256 random bits behind a prefix that says what they are; only digests are stored."""

import hashlib
import secrets


def new(prefix: str = "") -> str:
    return f"{prefix}{secrets.token_urlsafe(32)}"


def digest_of(secret: str) -> bytes:
    """SHA-256, 32 bytes: what is random needs no slow hash."""
    return hashlib.sha256(secret.encode()).digest()
