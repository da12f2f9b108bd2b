"""The form of an organization's next alias."""

from typing import Any

from django import forms

from accounts.models import Organization
from deployments.models import Alias, Deployment
from deployments.selectors import callable_deployments


class _DeploymentField(forms.ModelChoiceField):
    def label_from_instance(self, obj: Deployment) -> str:
        return obj.api_id


class AliasForm(forms.Form):
    name = forms.CharField(
        label="Alias",
        max_length=Alias.LONGEST,
        help_text="The model name that clients send. Saving an existing alias points it to the new deployment.",
        widget=forms.TextInput(attrs={"placeholder": "gpt-4o", "autocomplete": "off", "spellcheck": "false"}),
    )
    deployment = _DeploymentField(queryset=Deployment.objects.none(), empty_label="Choose one")

    def __init__(self, data: Any = None, *, organization: Organization) -> None:
        super().__init__(data)
        found = callable_deployments(organization).select_related("organization")
        self.fields["deployment"].queryset = found.order_by("organization__name", "name")  # type: ignore[attr-defined]
