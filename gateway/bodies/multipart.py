"""One field of a form that comes as multipart/form-data. Each byte is looked at a fixed number of times, whatever it says."""

import re
from collections.abc import Iterator

from gateway.errors import bad_request

MOST_PARTS = 1000
_MOST_HEADER_BYTES = 8 << 10
_LONGEST_VALUE = 1000
# Blanks that may follow a boundary on its line, and the end of that line.
_MOST_PADDING = 6
_BOUNDARY = re.compile(rb';\s*boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
# One after the other, so that nothing within quotes is taken for another one.
_PARAMETER = re.compile(rb';[ \t]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^;"\s]*))[ \t]*')


def field(body: bytes, content_type: bytes, name: bytes) -> bytes | None:
    """The value of the first field `name`; None without one. Raises a 400 for what is no such form."""
    place = find(body, content_type, name)
    return None if place is None else body[place[0] : min(place[1], place[0] + _LONGEST_VALUE)]


def find(body: bytes, content_type: bytes, name: bytes) -> tuple[int, int] | None:
    """Where the value of the first field `name` stands; a file of that name is none."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise bad_request("The form's Content-Type has no boundary.", "form_invalid")
    places = _delimiters(body, b"--" + (found[1] or found[2]))
    start = next(places, None)
    for _ in range(MOST_PARTS):
        if start is None or start[2]:
            return None
        value_at = body.find(b"\r\n\r\n", start[1], start[1] + _MOST_HEADER_BYTES) + 4
        if value_at < 4:
            raise bad_request("A part of the form has no end of its headers, or they are too long.", "form_invalid")
        following = next(places, None)
        if _name_of(body[start[1] : value_at]) == name:
            return value_at, max(value_at, following[0]) if following is not None else len(body)
        start = following
    raise bad_request(f"The form has more than {MOST_PARTS} parts.", "form_invalid")


def _delimiters(body: bytes, delimiter: bytes) -> Iterator[tuple[int, int, bool]]:
    """(where the part before it ends, where the line ends, whether it is the last) of each line that is one. What only begins like
    one belongs to a part."""
    at = body.find(delimiter)
    while at >= 0:
        end = at + len(delimiter)
        is_last = body.startswith(b"--", end)
        behind = body[end : end + _MOST_PADDING].lstrip(b" \t")
        if (at == 0 or body[at - 2 : at] == b"\r\n") and (is_last or behind.startswith(b"\r\n")):
            yield max(0, at - 2), end, is_last
        at = body.find(delimiter, end)


def _name_of(headers: bytes) -> bytes:
    """The field's name; empty for files."""
    for line in headers.split(b"\r\n"):
        if line[:20].lower() == b"content-disposition:":
            at = line.find(b";")
            given: dict[bytes, bytes] = {}
            while at >= 0 and (found := _PARAMETER.match(line, at)) is not None:
                given.setdefault(found[1].lower(), found[3] if found[2] is None else found[2])
                at = found.end()
            return b"" if b"filename" in given or b"filename*" in given else given.get(b"name", b"")
    return b""
