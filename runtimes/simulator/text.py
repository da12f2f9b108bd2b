"""Made-up text, tokens and vectors: the same prompt always gets the same answer."""

import hashlib
import itertools
import json
from typing import Any

WORDS = [
    "This",
    "is",
    "the",
    "Slipway",
    "simulator",
    ",",
    "not",
    "a",
    "language",
    "model",
    ".",
    "It",
    "makes",
    "up",
    "every",
    "answer",
    "at",
    "the",
    "speed",
    "you",
    "set",
    ",",
    "so",
    "that",
    "you",
    "can",
    "watch",
    "deployments",
    ",",
    "charts",
    "and",
    "logs",
    "without",
    "a",
    "GPU",
    ".",
]
EMBEDDING_SIZE = 64


def count_tokens(text: str) -> int:
    """One token per word, at least one: simple, and anyone can check the usage by hand."""
    return max(1, len(text.split()))


def prompt_text(body: dict[str, Any]) -> str:
    """The text of a chat's messages, a completion's prompt or an embedding's input."""
    if "messages" in body:
        messages = body["messages"] if isinstance(body["messages"], list) else []
        contents = [message.get("content", "") for message in messages if isinstance(message, dict)]
        return " ".join(content if isinstance(content, str) else json.dumps(content) for content in contents)
    value = body.get("prompt", body.get("input", ""))
    return value if isinstance(value, str) else json.dumps(value)


def answer_tokens(limit: int) -> list[str]:
    """`limit` tokens; joined they are the answer."""
    return [
        word if index == 0 else f" {word}" for index, word in enumerate(itertools.islice(itertools.cycle(WORDS), limit))
    ]


def embedding(text: str) -> list[float]:
    """A unit-free vector of EMBEDDING_SIZE numbers in -1 to 1, from the text's digest."""
    digest = hashlib.shake_256(text.encode()).digest(EMBEDDING_SIZE)
    return [byte / 127.5 - 1 for byte in digest]
