"""Files that a reader sees either whole or not at all, also after a kill in the middle of writing."""

import json
import os
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace the file at `path`; the old content stays until the new one is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, json.dumps(value, separators=(",", ":")).encode())


def read_json(path: Path) -> Any | None:
    """The parsed file, or None when it is absent or unreadable (a reader then treats it as not written yet)."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
