"""Request bodies that come compressed: opened, or refused in words."""

from gateway.bodies import codings
from gateway.errors import GatewayError


def check(coding: bytes) -> None:
    """Raises a 415 that names what can be opened."""
    if not codings.is_known(coding):
        name, known = coding.decode("latin-1"), codings.KNOWN.decode()
        message = f"Content-Encoding {name} is not supported here. Use {known}, or none."
        raise GatewayError(415, "coding_unknown", message, headers=((b"accept-encoding", codings.KNOWN),))


def opened(coding: bytes, body: bytes, most: int, too_large: GatewayError) -> bytes:
    """The body as it was before. Raises GatewayError: `too_large` where it would have more than `most` bytes."""
    check(coding)
    try:
        found = codings.opened(body, coding, most)
    except codings.CodingError as error:
        message = f"The body can't be decompressed as {coding.decode('latin-1')}: {error}."
        raise GatewayError(400, "coding_broken", message) from None
    if found is None:
        raise too_large
    return found
