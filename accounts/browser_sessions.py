"""Where a user is signed in: each browser with its address, to be ended one by one or all at once."""

import time
from collections.abc import Callable

from django.contrib.auth import update_session_auth_hash
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from accounts import audit
from accounts.models import BrowserSession, User
from accounts.permissions import Actor

# "Last seen" is for people; once in five minutes spares a write at every request.
SEEN_S = 300
_SEEN = "seen_at"


class BrowserSessionMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        # Of a session that was ended meanwhile nothing is noted: saving it would bring it back.
        if request.user.is_authenticated and time.time() - request.session.get(_SEEN, 0) > SEEN_S:
            _note(request)
        return self._get_response(request)


def _note(request: HttpRequest) -> None:
    request.session[_SEEN] = int(time.time())
    seen = BrowserSession(
        session_key=request.session.session_key,
        user=request.user,
        address=(request.META.get("REMOTE_ADDR") or "")[:45],
        browser=request.headers.get("User-Agent", "").replace("\0", "")[:300],
        seen_at=timezone.now(),
    )
    # One statement: a page sends several requests at once.
    BrowserSession.objects.bulk_create(
        [seen],
        update_conflicts=True,
        unique_fields=["session_key"],
        update_fields=["user", "address", "browser", "seen_at"],
    )


def of_user(user: User) -> QuerySet[BrowserSession]:
    """Those that are good still, latest first."""
    alive = Session.objects.filter(expire_date__gt=timezone.now()).values("session_key")
    return BrowserSession.objects.filter(user=user, session_key__in=alive)


@transaction.atomic
def end(session: BrowserSession, *, actor: Actor) -> None:
    """Sign that browser out. Its open pages end within seconds (open_sockets.py)."""
    Session.objects.filter(pk=session.session_key).delete()
    session.delete()
    audit.record(actor=actor, action="end_session", thing=session.user)


@transaction.atomic
def end_all(user: User, *, actor: Actor) -> None:
    """Sign the user out everywhere, also where no list knows of it."""
    User.objects.filter(pk=user.pk).update(session_generation=F("session_generation") + 1)
    user.refresh_from_db(fields=["session_generation"])
    BrowserSession.objects.filter(user=user).delete()
    audit.record(actor=actor, action="sign_out_everywhere", thing=user)


def end_others(request: HttpRequest) -> None:
    """As `end_all`, but for the browser that asks."""
    began = (
        BrowserSession.objects.filter(session_key=request.session.session_key)
        .values_list("created_at", flat=True)
        .first()
    )
    end_all(request.user, actor=request.user)
    update_session_auth_hash(request, request.user)
    _note(request)
    if began is not None:
        BrowserSession.objects.filter(session_key=request.session.session_key).update(created_at=began)
