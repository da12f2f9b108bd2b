"""The user's own account: password, second factor, and where one is signed in."""

from typing import Any

from allauth.account.internal.decorators import login_stage_required
from allauth.account.views import PasswordChangeView
from allauth.mfa.base.views import AuthenticateView
from allauth.mfa.stages import AuthenticateStage
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_POST

from accounts import browser_sessions, second_factor


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
    """Asks for a code at signing in. Whose second factor an operator removes meanwhile is signed in: the password was right."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        stage = request._login_stage  # type: ignore[attr-defined]
        if not second_factor.has(stage.login.user):
            return stage.exit()
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
