"""The ids that requests get here: known again from the books, which keep a request's number alone."""

import hashlib


def prefix(gateway: str, epoch: int) -> str:
    """Of all requests that this process of the gateway numbers."""
    return hashlib.sha256(f"{gateway}.{epoch}".encode()).hexdigest()[:10]


def request_id(gateway: str, epoch: int, sequence: int) -> str:
    return f"{prefix(gateway, epoch)}{sequence:06x}"
