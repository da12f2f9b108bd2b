"""Rows of a benchmark as text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure. `ratio` is ours to the peer's, or what the text says; `target` the ratio to stay at or below."""

    what: str
    ours: str
    beside: str
    ratio: float | None
    target: float | None = None

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}"
        verdict = ""
        if self.ratio is not None and self.target is not None:
            verdict = f"≤ {self.target:g} {'held' if self.ratio <= self.target else 'MISSED'}"
        return f"{self.what:<62} {self.ours:<26} {self.beside:<56} {ratio:>6}  {verdict}"
