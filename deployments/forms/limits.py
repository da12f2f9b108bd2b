"""The form of a deployment's limits: requests and tokens a minute for each level, empty for none."""

from collections.abc import Iterator
from typing import Any

from django import forms

from deployments.models import Deployment, RateLimit
from deployments.services.limits import Limits, limits_of

HINTS = {
    RateLimit.Level.ORGANIZATION: "All users and keys of one organization together.",
    RateLimit.Level.USER: "All keys of one user, and tests in the console.",
    RateLimit.Level.KEY: "",
    RateLimit.Level.PUBLIC: "Only a public deployment has such callers.",
}
UNITS = ("requests", "tokens")


class LimitsForm(forms.Form):
    def __init__(self, data: Any = None, *, deployment: Deployment) -> None:
        super().__init__(data)
        self.fields["leave_cached_out"] = forms.BooleanField(
            label="Don’t count cached input tokens",
            required=False,
            initial=deployment.limits_leave_cached_out,
            help_text="Cached tokens are those that the engine already has from earlier requests.",
        )
        known = limits_of(deployment)
        for level, label in RateLimit.Level.choices:
            for index, unit in enumerate(UNITS):
                self.fields[f"{level}_{unit}"] = forms.IntegerField(
                    label=f"{label}: {unit} a minute",
                    required=False,
                    min_value=1,
                    max_value=RateLimit.MOST,
                    initial=known.get(level, (None, None))[index],
                    widget=forms.NumberInput(attrs={"placeholder": "no limit", "inputmode": "numeric"}),
                )

    def rows(self) -> Iterator[tuple[str, str, Any, Any]]:
        """(whose, hint, requests a minute, tokens a minute) as bound fields."""
        for level, label in RateLimit.Level.choices:
            yield label, HINTS[level], self[f"{level}_requests"], self[f"{level}_tokens"]

    def chosen(self) -> Limits:
        values = self.cleaned_data
        return {level: (values[f"{level}_requests"], values[f"{level}_tokens"]) for level in RateLimit.Level.values}
