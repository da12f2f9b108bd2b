"""One field of a form that comes as multipart/form-data. Each byte is looked at a fixed number of times, whatever it says."""

import re

from gateway.errors import bad_request

MOST_PARTS = 1000
_MOST_HEADER_BYTES = 8 << 10
_LONGEST_VALUE = 1000
_BOUNDARY = re.compile(rb';\s*boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb';\s*name=(?:"([^"]*)"|([^;\s"]+))', re.IGNORECASE)


def field(body: bytes, content_type: bytes, name: bytes) -> bytes | None:
    """The value of the first field `name`; None without one. Raises a 400 for what is no such form."""
    place = find(body, content_type, name)
    return None if place is None else body[place[0] : min(place[1], place[0] + _LONGEST_VALUE)]


def find(body: bytes, content_type: bytes, name: bytes) -> tuple[int, int] | None:
    """Where the value of the first field `name` stands, as far as it is no file."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise bad_request("The form's Content-Type has no boundary.", "form_invalid")
    delimiter = b"--" + (found[1] or found[2])
    start = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter)
    for _ in range(MOST_PARTS):
        start = body.find(delimiter, start)
        if start < 0 or body.startswith(b"--", start + len(delimiter)):
            return None
        start += len(delimiter)
        value_at = body.find(b"\r\n\r\n", start, start + _MOST_HEADER_BYTES) + 4
        if value_at < 4:
            raise bad_request("A part of the form has no end of its headers, or they are too long.", "form_invalid")
        end = body.find(b"\r\n" + delimiter, value_at - 2)
        if _name_of(body[start:value_at]) == name:
            return value_at, end if end >= 0 else len(body)
        if end < 0:
            return None
        start = end + 2
    raise bad_request(f"The form has more than {MOST_PARTS} parts.", "form_invalid")


def _name_of(headers: bytes) -> bytes:
    for line in headers.split(b"\r\n"):
        if line[:20].lower() == b"content-disposition:":
            found = _NAME.search(line)
            return (found[1] or found[2] or b"") if found else b""
    return b""
