"""The page of people: who may sign in, and who is an operator. For operators."""

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from accounts import passwords, second_factor, services
from accounts.models import Member, User
from accounts.permissions import is_operator
from common.numbers import whole
from common.service_error import ServiceError
from common.shown_once import shown_once

PAGE_SIZE = 50
LINK = "password-link"
# What the page's buttons do: (service, what is said afterwards).
CHANGES: dict[str, tuple[Callable[..., None], str]] = {
    "deactivate": (lambda user, actor: services.set_active(user, False, actor=actor), "can't sign in any more, and keys and tokens of theirs open nothing"),
    "activate": (lambda user, actor: services.set_active(user, True, actor=actor), "may sign in again"),
    "make-operator": (lambda user, actor: services.set_operator(user, True, actor=actor), "is an operator now"),
    "sign-out": (lambda user, actor: services.sign_out(user, actor=actor), "is signed out everywhere"),
    "remove-second-factor": (lambda user, actor: second_factor.remove(user, actor=actor), "signs in by password alone now"),
    "end-operator": (lambda user, actor: services.set_operator(user, False, actor=actor), "is no operator any more"),
}  # fmt: skip


@login_required
def index(request: HttpRequest) -> HttpResponse:
    if not is_operator(request.user):
        raise Http404
    return _page(request)


def _page(request: HttpRequest, **shown: Any) -> HttpResponse:
    search = request.GET.get("search", "").strip().replace("\0", "")[:100]
    places = Prefetch("memberships", Member.objects.select_related("organization").order_by("organization__name"))
    found = User.objects.prefetch_related(places).annotate(second_factor=second_factor.exists())
    if search:
        found = found.filter(
            Q(username__icontains=search) | Q(email__icontains=search) | Q(memberships__organization__name=search)
        ).distinct()
    after = whole(request.GET.get("after", ""))
    if after is not None:
        found = found.filter(pk__gt=after)
    rows = list(found.order_by("pk")[: PAGE_SIZE + 1])
    context = {
        "rows": rows[:PAGE_SIZE],
        "next_after": rows[PAGE_SIZE - 1].pk if len(rows) > PAGE_SIZE else None,
        "search": search,
    } | shown
    return render(request, "accounts/users.html", context)


@login_required
@require_POST
@shown_once(back="users")
def change(request: HttpRequest, pk: int, action: str) -> HttpResponse:
    if not is_operator(request.user) or action not in (*CHANGES, LINK):
        raise Http404
    user = get_object_or_404(User, pk=pk)
    try:
        if action == LINK:
            # Shown this once: it is stored nowhere.
            link = request.build_absolute_uri(passwords.make_link(user, actor=request.user))
            return _page(request, link=link, person=user)
        act, done = CHANGES[action]
        act(user, request.user)
        messages.success(request, f"{user} {done}.")
    except ServiceError as error:
        messages.error(request, str(error))
    return redirect("users")
