"""Sign-in by password; accounts are made by operators, never by visitors."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest, HttpResponse

from common.byte_budget import network_of

# In the session: what the account was like when its password was accepted.
SIGN_IN_HASH = "sign_in_hash"


class SignInAdapter(DefaultAccountAdapter):
    error_messages = DefaultAccountAdapter.error_messages | {
        "too_many_login_attempts": "Too many wrong attempts from here. Try again in a minute.",
        "username_password_mismatch": "This name and password don't match an account.",
        "email_password_mismatch": "This address and password don't match an account.",
        "username_email_password_mismatch": "This name and password don't match an account.",
    }

    def pre_login(self, request: HttpRequest, user: Any, **kwargs: Any) -> HttpResponse | None:
        # Between password and code it may be changed: see own_account.CodeView.
        request.session[SIGN_IN_HASH] = user.get_session_auth_hash()
        return super().pre_login(request, user, **kwargs)

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        """For throttles. As the server in front has made it out: of an IPv6 address the network, which one caller has whole."""
        return network_of(request.META.get("REMOTE_ADDR") or "") or "here"

    def _get_login_attempts_cache_key(self, request: HttpRequest, **credentials: Any) -> str:
        """Wrong passwords count for name and address together: by the name alone anybody could lock its owner out."""
        return f"{super()._get_login_attempts_cache_key(request, **credentials)}:{self.get_client_ip(request)}"
