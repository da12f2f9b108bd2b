"""Whole numbers from addresses and forms. `str.isdigit` takes characters that `int` refuses, and any length."""

MAX_DIGITS = 17


def whole(text: str) -> int | None:
    """The number that `text` is, None when it is none or longer than any key."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else None
