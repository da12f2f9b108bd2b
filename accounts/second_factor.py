"""A code of an authenticator app beside the password. allauth checks it; here is how it is kept, who must have it, and the audit log."""

from collections.abc import Callable
from typing import Any

from allauth.core import context
from allauth.core.internal.cryptokit import normalize_user_code
from allauth.mfa.adapter import DefaultMFAAdapter, get_adapter
from allauth.mfa.base.forms import AuthenticateForm, ReauthenticateForm
from allauth.mfa.models import Authenticator
from allauth.mfa.signals import authenticator_added, authenticator_removed, authenticator_reset
from allauth.mfa.totp.forms import ActivateTOTPForm
from allauth.mfa.totp.internal.auth import SECRET_SESSION_KEY
from django import forms
from django.conf import settings
from django.contrib import messages
from django.core.cache import cache
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.urls import reverse

from accounts import audit
from accounts.models import User
from accounts.permissions import Actor, is_operator
from common.encryption import Cipher
from common.service_error import ForbiddenError, ServiceError

# Settings' values: who must have one.
OPTIONAL, OPERATORS, EVERYONE = "optional", "operators", "everyone"
_VALUE = "value"
# Where those go who must have one and have none yet: setting it up, and away.
_OWN = "/account/second-factor/"
_OPEN = ("/accounts/", "/static/", "/healthz")
_WANTED = "Set up a second factor first: it is required for your account here."


def is_wanted() -> bool:
    """Whether anybody must have one here."""
    return settings.SECOND_FACTOR != OPTIONAL


def must_have(user: User) -> bool:
    return settings.SECOND_FACTOR == EVERYONE or (settings.SECOND_FACTOR == OPERATORS and user.is_operator)


def has(user: User) -> bool:
    return Authenticator.objects.filter(user=user, type=Authenticator.Type.TOTP).exists()


def exists() -> Exists:
    """For queries of users."""
    return Exists(Authenticator.objects.filter(user=OuterRef("pk"), type=Authenticator.Type.TOTP))


def is_missing(user: Any) -> bool:
    """Whether the user, signed in by password alone, may do nothing yet but set one up."""
    return user.is_authenticated and must_have(user) and not has(user)


class SecondFactorMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path.startswith(_OWN):
            response = self._get_response(request)
            # These pages show secrets.
            response["Cache-Control"] = "no-store"
            return response
        if request.path.startswith(_OPEN) or not is_missing(request.user):
            return self._get_response(request)
        if request.path.startswith("/api/"):
            return JsonResponse({"error": {"code": "second_factor_missing", "message": _WANTED}}, status=403)
        messages.warning(request, _WANTED)
        if request.headers.get("HX-Request"):
            return HttpResponse(headers={"HX-Redirect": reverse("mfa_index")})
        return redirect("mfa_index")


class Adapter(DefaultMFAAdapter):
    error_messages = DefaultMFAAdapter.error_messages | {
        "incorrect_code": "This code is not right. Codes change every 30 seconds, and each works once.",
        "cannot_delete_authenticator": "A second factor is required for your account here.",
    }

    def get_totp_issuer(self) -> str:
        return f"Slipway {context.request.get_host()}"

    def encrypt(self, text: str) -> str:
        return Cipher(settings.INSTALLATION_KEYS.encryption).encrypt({_VALUE: text})

    def decrypt(self, encrypted_text: str) -> str:
        return Cipher(settings.INSTALLATION_KEYS.encryption).decrypt(encrypted_text)[_VALUE]

    def can_delete_authenticator(self, authenticator: Authenticator) -> bool:
        return not must_have(authenticator.user)


class _CodeOnce(forms.Form):
    """allauth forgets after 30 seconds which codes were used, but takes them for longer where clocks may differ."""

    def clean_code(self) -> str:
        code: str = super().clean_code()  # type: ignore[misc]
        key = f"second-factor:{self.user.pk}:{normalize_user_code(code)}"  # type: ignore[attr-defined]
        if not cache.add(key, 1, timeout=settings.MFA_TOTP_PERIOD * (2 * settings.MFA_TOTP_TOLERANCE + 1)):
            raise get_adapter().validation_error("incorrect_code")
        return code


class SignInForm(_CodeOnce, AuthenticateForm):
    pass


class ConfirmForm(_CodeOnce, ReauthenticateForm):
    pass


class ActivateForm(_CodeOnce, ActivateTOTPForm):
    """Reloading the page keeps the secret that an app may have read from it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kept = context.request.session.get(SECRET_SESSION_KEY)
        super().__init__(*args, **kwargs)
        if kept:
            self.secret = context.request.session[SECRET_SESSION_KEY] = kept


@transaction.atomic
def remove(user: User, *, actor: Actor) -> None:
    """For someone who has lost the app and the recovery codes: the password alone signs in again."""
    if not is_operator(actor):
        raise ForbiddenError("Only operators may remove a second factor of others.")
    if not Authenticator.objects.filter(user=user).delete()[0]:
        raise ServiceError(f"{user} has no second factor.", code="none")
    audit.record(actor=actor, action="remove_second_factor", thing=user)


@receiver(authenticator_added)
def _note_added(user: User, authenticator: Authenticator, **kwargs: Any) -> None:
    if authenticator.type == Authenticator.Type.TOTP:
        audit.record(actor=user, action="set_up_second_factor", thing=user)


@receiver(authenticator_removed)
def _note_removed(user: User, authenticator: Authenticator, **kwargs: Any) -> None:
    if authenticator.type == Authenticator.Type.TOTP:
        audit.record(actor=user, action="remove_second_factor", thing=user)


@receiver(authenticator_reset)
def _note_new_codes(user: User, **kwargs: Any) -> None:
    audit.record(actor=user, action="make_recovery_codes", thing=user)
