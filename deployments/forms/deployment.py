"""The deployment's own fields: what outlives its versions."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from accounts.models import Organization
from accounts.permissions import Actor
from common.naming import name_error
from common.numbers import whole
from deployments.models import Deployment, Endpoint, Model
from deployments.models.deployment import default_access
from deployments.selectors import deployable_endpoints, manageable_models


class DeploymentForm(forms.Form):
    """`fixed_model` is set when the form was opened from a model's page: that field is then shown, not asked."""

    # Longer than a name may be: the rule's own message says more than "too long".
    name = forms.CharField(max_length=1000, help_text="Part of the address: lower-case letters, digits and hyphens.")
    description = forms.CharField(max_length=2000, required=False, widget=forms.Textarea(attrs={"rows": 2}))
    environment = forms.ChoiceField(choices=Deployment.Environment.choices, initial=Deployment.Environment.DEVELOPMENT)
    access = forms.ChoiceField(
        label="Who may call it",
        choices=Deployment.Access.choices,
        help_text="Public needs no key: whoever reaches the gateway can use it, and sees it in /v1/models. Settings changes this later.",
    )
    model = forms.ModelChoiceField(Model.objects.none(), empty_label=None)
    endpoint = forms.ModelChoiceField(
        Endpoint.objects.none(), empty_label=None, help_text="Where it is exposed; decides the cluster too."
    )

    def __init__(self, data: Any = None, *, actor: Actor, fixed_model: Model | None = None, **kwargs: Any) -> None:
        super().__init__(data, **kwargs)
        self.fields["access"].initial = default_access()
        models = manageable_models(actor).select_related("organization")
        self.fixed_model = fixed_model
        self.fields["model"].queryset = models.filter(pk=fixed_model.pk) if fixed_model else models
        self.fields["model"].label_from_instance = lambda item: f"{item.name} ({item.organization})"
        endpoints = deployable_endpoints(actor).select_related("organization", "cluster")
        if fixed_model:
            endpoints = endpoints.filter(organization=fixed_model.organization)
        self.fields["endpoint"].queryset = endpoints
        self.fields["endpoint"].label_from_instance = lambda item: (
            f"/{item.name} on {item.cluster} ({item.organization})"
        )
        if fixed_model:
            self.fields["model"].initial = fixed_model.pk

    def chosen(self, name: str, draft: Any = None) -> Any:
        """The object that a select shows now: from the data, else the first one."""
        value = (draft or self.data or {}).get(name) or self.fields[name].initial
        queryset = self.fields[name].queryset
        pk = whole(str(value or ""))
        found = queryset.filter(pk=pk).first() if pk is not None else None
        return found or queryset.first()

    def clean_name(self) -> str:
        problem = name_error(self.cleaned_data["name"])
        if problem:
            raise ValidationError(problem)
        return self.cleaned_data["name"]


class SettingsForm(forms.Form):
    description = forms.CharField(max_length=2000, required=False, widget=forms.Textarea(attrs={"rows": 2}))
    environment = forms.ChoiceField(choices=Deployment.Environment.choices)
    starts_again = forms.BooleanField(
        label="Retry failed starts",
        required=False,
        help_text="After a start fails because there is no room, or because of a node, a registry or the cluster. Waits 1 to 30 minutes between tries.",
    )


class AccessForm(forms.Form):
    """Who may call a deployment, and who sees it in the Developer Hub."""

    access = forms.ChoiceField(choices=Deployment.Access.choices)
    sharing = forms.ChoiceField(
        choices=Deployment.Sharing.choices,
        help_text="Whose Developer Hub shows it, and whose keys are good when it wants one.",
    )
    shared_with = forms.ModelMultipleChoiceField(
        Organization.objects.none(),
        label="Organizations",
        required=False,
        widget=forms.SelectMultiple(attrs={"class": "form-select", "size": 6}),
        help_text="Hold Ctrl (⌘ on a Mac) to choose several.",
    )

    def __init__(self, data: Any = None, *, deployment: Deployment) -> None:
        values = {
            "access": deployment.access,
            "sharing": deployment.sharing,
            "shared_with": deployment.shared_with.all(),
        }
        super().__init__(data, initial=values)
        others = Organization.objects.exclude(pk=deployment.organization_id)
        self.fields["shared_with"].queryset = others
        if not others:
            self.fields["shared_with"].help_text = "There is no other organization yet."
