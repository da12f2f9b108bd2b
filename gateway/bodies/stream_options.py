"""Streams tell the tokens used only when asked: the gateway asks where the client did not."""

from gateway.bodies import json_fields
from gateway.bodies.json_fields import RequestFields

ASK = b'"stream_options":{"include_usage":true}'


def ask_for_usage(body: bytes, fields: RequestFields) -> bytes | None:
    """The body that asks for usage; None when the client asked itself or doesn't stream, or can't be asked for."""
    if bytes(fields.stream) in (b"", b"false", b"null"):
        # Anything else some engine may take for a wish to stream.
        return None
    if not json_fields.is_given(fields.stream_options):
        start = body.index(b"{") + 1
        return body[:start] + ASK + b"," + body[start:]
    given = bytes(fields.stream_options)
    if given == b"null":
        asking: bytes | None = b'{"include_usage":true}'
    elif not given.startswith(b"{"):
        # Its engine says what is wrong with it.
        return None
    else:
        asking = _with_usage(given)
    return None if asking is None else json_fields.replaced(body, fields.stream_options, asking)


def _with_usage(options: bytes) -> bytes | None:
    """Spliced in, so that all else stays as it was written: numbers of any size, names given twice. None when it is asked."""
    asked = json_fields.of_options(options)
    if not json_fields.is_given(asked):
        return b'{"include_usage":true' + (b"}" if options[1:].lstrip() == b"}" else b"," + options[1:])
    return None if bytes(asked) == b"true" else json_fields.replaced(options, asked, b"true")
