"""The form of a quota: how much may be wanted at once, empty for no limit."""

from typing import Any

from django import forms

from deployments.forms.key_values import format_bytes, parse_bytes
from deployments.models import Quota
from deployments.services.quotas import LABELS, MOST

_MOST_TOKENS = 10**15


class QuotaForm(forms.Form):
    def __init__(self, data: Any = None, *, quota: Quota | None, kinds: list[str]) -> None:
        super().__init__(data)
        for kind in kinds:
            known = getattr(quota, kind, None)
            shared: dict[str, Any] = {"label": "Memory" if kind == "memory" else LABELS[kind], "required": False}
            if kind == "memory":
                shown = format_bytes(known) if known else ""
                self.fields[kind] = forms.CharField(initial=shown, max_length=40, **shared)
                self.fields[kind].widget.attrs["placeholder"] = "no limit, or 256 GiB"
                continue
            field = forms.FloatField if kind == "cpu" else forms.IntegerField
            most = _MOST_TOKENS if kind == "tokens" else MOST
            number = forms.NumberInput(attrs={"placeholder": "no limit", "inputmode": "decimal"})
            self.fields[kind] = field(initial=known, min_value=0, max_value=most, widget=number, **shared)

    def clean_memory(self) -> int | None:
        text = self.cleaned_data["memory"].strip()
        return parse_bytes(text) if text else None
