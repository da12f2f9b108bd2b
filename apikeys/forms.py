"""Forms of keys."""

from datetime import timedelta
from typing import Any

from django import forms
from django.utils import timezone

from accounts.models import Organization, User
from apikeys.models import ApiKey
from apikeys.selectors import openable_deployments, paying_organizations
from deployments.models import Deployment

EXPIRES = (("", "Never"), ("7", "In 7 days"), ("30", "In 30 days"), ("90", "In 90 days"), ("365", "In a year"))
GRACE = (("0", "At once"), ("3600", "In an hour"), ("86400", "In a day"), ("604800", "In a week"))


class ScopeForm(forms.Form):
    """What a key of `user` opens."""

    scope = forms.ChoiceField(
        label="Opens",
        choices=ApiKey.Scope.choices,
        initial=ApiKey.Scope.USER,
        widget=forms.Select(attrs={"class": "form-select"}),
    )
    deployments = forms.ModelMultipleChoiceField(
        Deployment.objects.none(),
        required=False,
        widget=forms.SelectMultiple(attrs={"class": "form-select", "size": 8}),
        help_text="Hold Ctrl (⌘ on a Mac) to choose several.",
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["deployments"].queryset = openable_deployments(user)
        self.fields["deployments"].label_from_instance = lambda item: item.api_id

    def chosen(self) -> list[Deployment] | None:
        """None: all that the user may use."""
        if self.cleaned_data["scope"] == ApiKey.Scope.USER:
            return None
        return list(self.cleaned_data["deployments"])


class KeyForm(ScopeForm):
    name = forms.CharField(max_length=120, help_text="Where it will be used, for example “search backend”.")
    organization = forms.ModelChoiceField(
        Organization.objects.none(), label="On the account of", empty_label=None,
        help_text="Whose limits and costs the calls count against.",
    )  # fmt: skip
    expires = forms.ChoiceField(choices=EXPIRES, required=False)
    field_order = ("name", "organization", "expires", "scope", "deployments")

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, user=user, **kwargs)
        self.fields["organization"].queryset = paying_organizations(user)

    def expires_at(self) -> Any:
        days = self.cleaned_data["expires"]
        return timezone.now() + timedelta(days=int(days)) if days else None


class RotateForm(forms.Form):
    grace = forms.ChoiceField(label="The old secret stops", choices=GRACE)

    def duration(self) -> timedelta:
        return timedelta(seconds=int(self.cleaned_data["grace"]))
