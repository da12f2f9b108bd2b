"""How much of a request's body is text, whose length tells something of its tokens: pictures and sounds in it do not."""

import re

# Below it a picture hardly matters.
LOOKED_AT = 16 << 10
# What such a part counts instead of its size, in bytes.
_PART = 1024
# A string of the alphabets of base64 and of addresses, so long that it is nobody's word.
_BLOB = re.compile(rb'"[^"\\ ]{4096,}+"')
_TEXT = (b"application/json", b"text/", b"application/x-www-form-urlencoded")


def of_body(body: bytes) -> int:
    """Of a JSON body, in bytes."""
    if len(body) < LOOKED_AT:
        return len(body)
    blobs = [len(found[0]) for found in _BLOB.finditer(body)]
    return len(body) - sum(blobs) + _PART * len(blobs)


def of_kind(content_type: bytes, size: int) -> int:
    """Of `size` bytes that nobody reads here, by what they say they are."""
    is_text = not content_type or content_type.lower().startswith(_TEXT) or b"+json" in content_type.lower()
    return size if is_text else min(size, _PART)
