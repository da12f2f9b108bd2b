"""The user's own account: password, second factor, and where one is signed in."""

from typing import Any

from allauth.account.views import PasswordChangeView
from allauth.mfa.models import Authenticator
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.http import require_POST

from accounts import browser_sessions


class AccountView(PasswordChangeView):
    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        user = self.request.user
        second_factor = Authenticator.objects.filter(user=user, type=Authenticator.Type.TOTP).first()
        return super().get_context_data(**kwargs) | {
            "second_factor": second_factor,
            "sessions": browser_sessions.of_user(user),
            "own_session": self.request.session.session_key,
        }


account = AccountView.as_view()


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
