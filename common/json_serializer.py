"""How Django's cache writes values: as JSON, so that reading one never runs anything."""

from typing import Any

import orjson


class JsonSerializer:
    """What can't be written as JSON is refused when it is written; what isn't JSON counts as nothing when it is read."""

    def dumps(self, value: Any) -> bytes | int:
        # Plain numbers stay plain: the store counts them up itself.
        return value if type(value) is int else orjson.dumps(value)

    def loads(self, data: bytes) -> Any:
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            return None
