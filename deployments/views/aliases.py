"""The aliases of an organization: a card of its page, and the form that adds and removes them."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from accounts.permissions import managed_organizations
from common.service_error import ServiceError
from deployments.forms.alias import AliasForm
from deployments.services.aliases import remove_alias, set_alias


@login_required
def of_organization(request: HttpRequest, name: str) -> HttpResponse:
    """The page; a POST adds an alias, or points one that is there to another deployment."""
    organization = get_object_or_404(managed_organizations(request.user), name=name)
    form = AliasForm(request.POST or None, organization=organization)
    if request.method == "POST" and form.is_valid():
        values = form.cleaned_data
        try:
            set_alias(organization, values["name"], values["deployment"], actor=request.user)
            messages.success(
                request,
                f"{values['name']} now points to {values['deployment'].api_id}. Gateways apply it within a second.",
            )
            return redirect("organization-aliases", name)
        except ServiceError as error:
            error.tell(form)
    context = {
        "organization": organization,
        "aliases": organization.aliases.select_related("deployment__organization", "created_by"),
        "form": form,
    }
    return render(request, "deployments/aliases.html", context, status=422 if form.errors else 200)


@login_required
@require_POST
def remove(request: HttpRequest, name: str) -> HttpResponse:
    organization = get_object_or_404(managed_organizations(request.user), name=name)
    alias = request.POST.get("name", "")
    remove_alias(organization, alias, actor=request.user)
    messages.success(request, f"The alias {alias[:120]} is removed.")
    return redirect("organization-aliases", name)
