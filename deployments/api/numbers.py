"""Numbers of the API: JSON's, or digits as a form would send them; no other spelling that Python happens to read."""

import re
from typing import Any

from rest_framework import serializers

_WHOLE = re.compile(r"-?[0-9]{1,20}(\.0*)?")
_AMOUNT = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][-+]?[0-9]{1,3})?")


class Whole(serializers.IntegerField):
    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or (isinstance(data, str) and not _WHOLE.fullmatch(data)):
            self.fail("invalid")
        return int(super().to_internal_value(data))


class Amount(serializers.FloatField):
    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool) or (isinstance(data, str) and not _AMOUNT.fullmatch(data)):
            self.fail("invalid")
        return float(super().to_internal_value(data))
