"""The user's own account: password, second factor, and where one is signed in."""

from typing import Any

from allauth.account.internal.decorators import login_stage_required
from allauth.account.internal.stagekit import clear_login
from allauth.account.views import PasswordChangeView
from allauth.mfa.base.views import AuthenticateView
from allauth.mfa.stages import AuthenticateStage
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.utils.crypto import constant_time_compare
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_POST

from accounts import browser_sessions, second_factor
from accounts.sign_in import SIGN_IN_HASH


class AccountView(PasswordChangeView):
    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        user = self.request.user
        return super().get_context_data(**kwargs) | {
            "second_factor": second_factor.has(user),
            "sessions": browser_sessions.of_user(user),
            "own_session": self.request.session.session_key,
        }


account = AccountView.as_view()


@method_decorator(login_stage_required(stage=AuthenticateStage.key, redirect_urlname="account_login"), name="dispatch")
class CodeView(AuthenticateView):
    """Asks for a code at signing in.

    What has begun with a password ends with it: when it is changed, when the user is signed out everywhere, and when the second
    factor is removed. Someone else may have begun it.
    """

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        user = request._login_stage.login.user  # type: ignore[attr-defined]
        began_with = request.session.get(SIGN_IN_HASH, "")
        if not constant_time_compare(began_with, user.get_session_auth_hash()) or not second_factor.has(user):
            clear_login(request)
            messages.warning(request, "Your account has changed meanwhile. Sign in again.")
            return redirect("account_login")
        return super().dispatch(request, *args, **kwargs)


ask_for_code = CodeView.as_view()


@login_required
@require_POST
def end_session(request: HttpRequest, pk: int) -> HttpResponse:
    session = get_object_or_404(browser_sessions.of_user(request.user), pk=pk)
    browser_sessions.end(session, actor=request.user)
    messages.success(request, f"{session.browser_label} is signed out.")
    return redirect("account_change_password")


@login_required
@require_POST
def end_other_sessions(request: HttpRequest) -> HttpResponse:
    browser_sessions.end_others(request)
    messages.success(request, "You are signed out everywhere but here.")
    return redirect("account_change_password")
