"""The origins of pages: what browsers send as Origin."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from common.service_error import ServiceError

ANY = "*"
MOST = 50


def checked(origins: Iterable[str]) -> list[str]:
    """As browsers write them, each once and in order. Raises for what no browser would send."""
    found = sorted({_checked(origin) for origin in origins})
    if len(found) > MOST:
        raise ServiceError(f"At most {MOST} origins are kept. For any page write *.", field="origins")
    return [ANY] if ANY in found else found


def _checked(origin: str) -> str:
    if origin == ANY:
        return origin
    problem = (
        f"“{origin[:100]}” is not an origin. Use scheme, host and an optional port, such as https://app.example.com."
    )
    origin = origin.strip().rstrip("/")
    try:
        # It would leave line ends out.
        parts = urlsplit(origin if origin.isprintable() else "")
        port = parts.port
    except ValueError:
        raise ServiceError(problem, field="origins") from None
    host = parts.hostname or ""
    # Extensions of browsers have schemes of their own.
    is_whole = parts.scheme and host and not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
    if not is_whole or not host.isascii() or any(character in host for character in " *,\"'<>\\"):
        raise ServiceError(problem, field="origins")
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port is not None and port != usual else "")
