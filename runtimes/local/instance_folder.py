"""The folder of one local instance: state, log segments, working directory.

{root}/{version key}/{uid}/state.json    what the shim says, replaced whole at each change
{root}/{version key}/{uid}/log/{start}   log segments, named by the position of their first byte
{root}/{version key}/{uid}/last-words    the last lines of the run that ended last, below the number of that end
{root}/{version key}/{uid}/work/         the program's working directory
"""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import atomic_file
from runtimes.driver import LogLine

SEGMENT_BYTES = 16 << 20
SEGMENTS_KEPT = 4
LINE_BYTES = 16 << 10


class InstanceFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.state_path = path / "state.json"
        self.log_path = path / "log"
        self.work_path = path / "work"

    def create(self) -> None:
        for folder in (self.path, self.log_path, self.work_path):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def read_state(self) -> dict[str, Any] | None:
        return atomic_file.read_json(self.state_path)

    def write_state(self, state: dict[str, Any]) -> None:
        atomic_file.write_json(self.state_path, state)

    def segments(self) -> list[Path]:
        if not self.log_path.is_dir():
            return []
        return sorted(path for path in self.log_path.iterdir() if path.name.isdigit())

    def read_log(self, after: int) -> Iterator[LogLine]:
        """Whole lines behind byte position `after`, as `{seconds} {text}`; a hole is told in a line of its own."""
        segments = self.segments()
        if segments and after < int(segments[0].name):
            lost = int(segments[0].name) - after
            yield LogLine(
                int(segments[0].name), f"{time.time():.3f} [slipway] {lost:,} bytes of the log were lost here"
            )
        for segment in segments:
            start = int(segment.name)
            size = segment.stat().st_size
            if start + size <= after:
                continue
            with segment.open("rb") as file:
                position = max(start, after)
                file.seek(position - start)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    position += len(line)
                    yield LogLine(position, line[:-1].decode("utf-8", "replace"))

    def write_last_words(self, end: int, lines: Sequence[str]) -> None:
        atomic_file.write_bytes(self.path / "last-words", "\n".join((str(end), *lines)).encode())

    def read_last_words(self, end: int) -> list[str]:
        """Those of that end; none where another one has come since."""
        try:
            number, *lines = (self.path / "last-words").read_text(errors="replace").split("\n")
        except OSError:
            return []
        return lines if number == str(end) else []

    def log_tail(self, count: int) -> list[str]:
        """The last `count` lines without their times."""
        lines: list[str] = []
        for segment in self.segments()[-2:]:
            with segment.open("rb") as file:
                file.seek(max(0, segment.stat().st_size - 64 * 1024))
                lines += file.read().decode("utf-8", "replace").splitlines()
        return [line.partition(" ")[2] for line in lines[-count:]]


class LogWriter:
    """Appends lines with their time; keeps the last SEGMENTS_KEPT segments."""

    def __init__(self, folder: InstanceFolder) -> None:
        self._folder = folder
        segments = folder.segments()
        self._position = int(segments[-1].name) + segments[-1].stat().st_size if segments else 0
        self._file = self._open()
        self._partial = b""
        # The program's lines come from a thread of their own.
        self._lock = threading.Lock()

    def feed(self, data: bytes) -> None:
        """Take bytes as the program wrote them; a line longer than LINE_BYTES is cut into several."""
        with self._lock:
            lines = (self._partial + data).split(b"\n")
            self._partial = lines.pop()
            while len(self._partial) > LINE_BYTES:
                lines.append(self._partial[:LINE_BYTES])
                self._partial = self._partial[LINE_BYTES:]
            self._write(lines)

    def say(self, text: str) -> None:
        """Add a line of Slipway's own."""
        with self._lock:
            self._finish_line()
            self._write([b"[slipway] " + text.encode()])

    def finish_line(self) -> None:
        with self._lock:
            self._finish_line()

    def _finish_line(self) -> None:
        if self._partial:
            self._write([self._partial])
            self._partial = b""

    def _write(self, lines: list[bytes]) -> None:
        if not lines:
            return
        stamp = f"{time.time():.3f} ".encode()
        data = b"".join(
            stamp + line[start : start + LINE_BYTES].rstrip(b"\r") + b"\n"
            for line in lines
            for start in range(0, max(1, len(line)), LINE_BYTES)
        )
        self._file.write(data)
        self._file.flush()
        self._position += len(data)
        if self._file.tell() >= SEGMENT_BYTES:
            self._file.close()
            self._file = self._open()
            for old in self._folder.segments()[:-SEGMENTS_KEPT]:
                old.unlink(missing_ok=True)

    def _open(self):  # type: ignore[no-untyped-def]
        segments = self._folder.segments()
        if segments and segments[-1].stat().st_size < SEGMENT_BYTES:
            return segments[-1].open("ab")
        return (self._folder.log_path / f"{self._position:020d}").open("ab")
