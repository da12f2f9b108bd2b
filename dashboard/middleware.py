"""Answers in plain words while PostgreSQL or Valkey is away, instead of a stack trace."""

from collections.abc import Callable

import redis
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string

MESSAGE = "{store} does not answer at the moment. Running models keep serving; this page works again as soon as it is back."


class UnreachableStoreMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, OperationalError | InterfaceError):
            return _unavailable(request, "The database")
        if isinstance(exception, redis.ConnectionError | redis.TimeoutError):
            return _unavailable(request, "Valkey")
        return None


def _unavailable(request: HttpRequest, store: str) -> HttpResponse:
    message = MESSAGE.format(store=store)
    if request.path.startswith("/api/"):
        return JsonResponse({"error": {"code": "store_unavailable", "message": message}}, status=503)
    return HttpResponse(render_to_string("503.html", {"message": message}), status=503, headers={"Retry-After": "5"})
