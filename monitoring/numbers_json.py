"""Answers that carry columns of numbers."""

from typing import Any

import numpy as np
import orjson
from django.http import HttpResponse


def numbers(values: dict[str, Any], status: int = 200) -> HttpResponse:
    """JSON with NumPy's columns as they are; what is unknown becomes null."""
    return HttpResponse(encoded(values), status=status, content_type="application/json")


def encoded(values: dict[str, Any]) -> bytes:
    return orjson.dumps(values, default=_listed, option=orjson.OPT_SERIALIZE_NUMPY)


def _listed(value: Any) -> Any:
    """Columns cut out of a table, whose numbers lie apart."""
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value)
    raise TypeError(type(value))
