"""Passwords. allauth's views change them; here is what this product adds: links from operators instead of mails, and the audit log."""

from typing import Any

from allauth.account.signals import password_changed, password_reset
from allauth.account.utils import user_pk_to_url_str
from django.conf import settings
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.db import transaction
from django.dispatch import receiver
from django.urls import reverse

from accounts import audit
from accounts.models import User
from accounts.permissions import Actor, is_operator
from common.service_error import ForbiddenError, ServiceError


class LinkTokens(PasswordResetTokenGenerator):
    """Good once, as they depend on the password that they change, and for `PASSWORD_RESET_TIMEOUT` at most."""

    @property
    def secret(self) -> str:
        return settings.INSTALLATION_KEYS.links[0]

    @property
    def secret_fallbacks(self) -> tuple[str, ...]:
        return settings.INSTALLATION_KEYS.links[1:]

    def _make_hash_value(self, user: Any, timestamp: int) -> str:
        # Who is deactivated meanwhile has no use for the link.
        return f"{super()._make_hash_value(user, timestamp)}{user.is_active}"


@transaction.atomic
def make_link(user: User, *, actor: Actor) -> str:
    """The path by which this person chooses a new password without knowing the old one."""
    if not is_operator(actor):
        raise ForbiddenError("Only operators may make links for passwords.")
    if not user.is_active:
        raise ServiceError(f"{user} is deactivated. Activate the account first.", code="deactivated")
    audit.record(actor=actor, action="make_password_link", thing=user)
    key = LinkTokens().make_token(user)
    return reverse("account_reset_password_from_key", kwargs={"uidb36": user_pk_to_url_str(user), "key": key})


@receiver(password_changed)
def _note_change(user: User, **kwargs: Any) -> None:
    audit.record(actor=user, action="change_password", thing=user)


@receiver(password_reset)
def _note_reset(user: User, **kwargs: Any) -> None:
    audit.record(actor=user, action="change_password_by_link", thing=user)
