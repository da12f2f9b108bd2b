"""The form of a version's replicas."""

from typing import Any

from django import forms

from deployments.models import Version
from deployments.services.versions import MAX_REPLICAS

_MESSAGE = f"Replicas are a whole number from 1 to {MAX_REPLICAS}. To have none, stop the version."


class ScaleForm(forms.Form):
    replicas = forms.IntegerField(
        min_value=1,
        max_value=MAX_REPLICAS,
        error_messages=dict.fromkeys(("required", "invalid", "min_value", "max_value"), _MESSAGE),
    )

    def __init__(self, data: Any = None, *, version: Version | None) -> None:
        super().__init__(data, initial={"replicas": version.replicas if version else None})
        if version is not None:
            self.fields["replicas"].label = f"Replicas of version {version.number}"

    def clean_replicas(self) -> int:
        if not self.data["replicas"].strip().isascii():
            raise forms.ValidationError(_MESSAGE)
        return int(self.cleaned_data["replicas"])
