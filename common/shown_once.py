"""Pages that show a secret this once: nothing keeps a copy of them, and reloading one doesn't make another secret."""

import functools
import hashlib
from collections.abc import Callable

import redis
from django.contrib import messages
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

_REMEMBERED_S = 24 * 3600
View = Callable[..., HttpResponse]


def shown_once(back: str) -> Callable[[View], View]:
    """Wrap a view whose successful POST answers with a page that holds a secret. `back`: where a repeated one is sent."""

    def wrap(view: View) -> View:
        @functools.wraps(view)
        def once(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
            # A form that was shown has a token of its own; what comes without is no browser's repetition.
            if request.method != "POST" or "csrfmiddlewaretoken" not in request.POST:
                return _unkept(view(request, *args, **kwargs))
            sent = _key_of(request)
            if not _is_first(sent):
                messages.warning(
                    request, "This was done when the page was first shown. What it showed can't be shown again."
                )
                return redirect(back)
            try:
                response = view(request, *args, **kwargs)
            except BaseException:
                _forget(sent)
                raise
            if response.status_code != 200:
                # Refused: the same form, mended, is not a repetition.
                _forget(sent)
            return _unkept(response)

        return once

    return wrap


def _unkept(response: HttpResponse) -> HttpResponse:
    response["Cache-Control"] = "no-store"
    return response


def _key_of(request: HttpRequest) -> str:
    """The same when a browser sends a form again, another one for each time that the form was shown."""
    parts = [
        request.path,
        str(request.user.pk),
        *(f"{name}={request.POST.getlist(name)}" for name in sorted(request.POST)),
    ]
    return f"shown-once:{hashlib.sha256('&'.join(parts).encode()).hexdigest()}"


def _is_first(key: str) -> bool:
    try:
        return bool(cache.add(key, 1, _REMEMBERED_S))
    except redis.RedisError:
        # Better one secret too many than none.
        return True


def _forget(key: str) -> None:
    try:
        cache.delete(key)
    except redis.RedisError:
        return
