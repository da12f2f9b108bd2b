"""Answers in plain words when a store is away or refuses a value, instead of a stack trace."""

from collections.abc import Callable
from urllib.parse import urlencode, urlsplit

import redis
from django.conf import settings
from django.contrib import messages
from django.db import DataError, InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponsePermanentRedirect, HttpResponseRedirect, JsonResponse
from django.middleware.common import CommonMiddleware
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

from dashboard.errors import bad_request


class SlashMiddleware(CommonMiddleware):
    """An address without its last slash is sent on with method and body: a POST that comes out as a GET would look done."""

    class response_redirect_class(HttpResponsePermanentRedirect):
        status_code = 308


MESSAGE = (
    "{store} does not answer at the moment. Running models keep serving; this page works again as soon as it is back."
)

FULL = "Valkey is full and takes nothing new. Running models keep serving; Administration shows how full it is, and its maxmemory sets how much it may hold."


class SignInAgainMiddleware:
    """Whoever was signed out meanwhile comes back to the page where they pressed, and is told that nothing was done: the
    button's own address can't be read."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        sign_in = reverse(settings.LOGIN_URL)
        is_part = bool(request.headers.get("HX-Request"))
        if (
            (request.method != "POST" and not is_part)
            or response.status_code != 302
            or not response["Location"].startswith(sign_in + "?")
        ):
            return response
        page = urlsplit(request.headers.get("HX-Current-URL", "") or request.headers.get("Referer", ""))
        back = f"{page.path}?{page.query}" if page.query else page.path
        if not url_has_allowed_host_and_scheme(page.geturl(), {request.get_host()}):
            back = "/"
        done = "You were signed out meanwhile, so nothing was done. Repeat it."
        messages.warning(request, done if request.method == "POST" else "You were signed out.")
        url = f"{sign_in}?{urlencode({'next': back})}"
        # A part of a page is not the place for the sign-in form: the page itself goes there.
        return HttpResponse(headers={"HX-Redirect": url}) if is_part else HttpResponseRedirect(url)


class StoreErrorMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, OperationalError | InterfaceError):
            return _unavailable(request, "The database")
        if isinstance(exception, redis.ConnectionError | redis.TimeoutError):
            return _unavailable(request, "Valkey")
        if isinstance(exception, redis.exceptions.OutOfMemoryError):
            return _refused(request, FULL)
        if isinstance(exception, DataError):
            # A NUL byte in an address, mostly: no form lets one through, but anyone can write a query by hand.
            return bad_request(request, exception)
        return None


def _unavailable(request: HttpRequest, store: str) -> HttpResponse:
    return _refused(request, MESSAGE.format(store=store))


def _refused(request: HttpRequest, message: str) -> HttpResponse:
    if request.path.startswith("/api/"):
        return JsonResponse({"error": {"code": "store_unavailable", "message": message}}, status=503)
    return HttpResponse(render_to_string("503.html", {"message": message}), status=503, headers={"Retry-After": "5"})
