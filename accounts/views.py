"""The user's own page: API tokens."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from accounts import services
from accounts.models import ApiToken
from common.shown_once import shown_once

# In days.
LIFETIMES = ("7", "30", "90", "365")


@login_required
@shown_once(back="accounts:tokens")
def tokens(request: HttpRequest) -> HttpResponse:
    """The list; a POST makes a token and shows its text this once."""
    new_token = error = ""
    scope, days = request.POST.get("scope", ApiToken.Scope.DEPLOY), request.POST.get("days", "")
    if request.method == "POST":
        label = request.POST.get("label", "").strip()
        if not label or len(label) > 120:
            error = "Give the token a label of at most 120 characters, for example “deploy script”."
        elif scope not in ApiToken.Scope.values or (days and days not in LIFETIMES):
            error = "Choose what the token may do, and for how long it is good."
        else:
            lifetime = int(days) if days else ApiToken.LIFETIME_DAYS
            _, new_token = services.create_api_token(request.user, label, scope=scope, lifetime_days=lifetime)
    context = {
        "tokens": request.user.api_tokens.all(),
        "new_token": new_token,
        "error": error,
        "label": request.POST.get("label", "") if error else "",
        "scopes": ApiToken.Scope.choices,
        "lifetimes": LIFETIMES,
        # What was chosen stays chosen: who mends a label must not get more rights than they asked for.
        "scope": scope if error else ApiToken.Scope.DEPLOY,
        "lifetime": days if error and days in LIFETIMES else str(ApiToken.LIFETIME_DAYS),
    }
    return render(request, "accounts/tokens.html", context, status=422 if error else 200)


@login_required
@require_POST
def renew_token(request: HttpRequest, pk: int) -> HttpResponse:
    token = get_object_or_404(ApiToken, user=request.user, pk=pk)
    services.renew_api_token(token, actor=request.user)
    messages.success(request, f"{token.label} is good until {token.expires_at:%Y-%m-%d}.")
    return redirect("accounts:tokens")


@login_required
@require_POST
def delete_token(request: HttpRequest, pk: int) -> HttpResponse:
    services.delete_api_token(get_object_or_404(ApiToken, user=request.user, pk=pk), actor=request.user)
    messages.success(request, "The token is deleted; it is refused from now on.")
    return redirect("accounts:tokens")
