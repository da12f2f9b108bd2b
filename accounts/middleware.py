"""Tells the audit log where a request came from."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from accounts.audit import called_from


class AuditSourceMiddleware:
    """The peer's address, as the server in front has made it out: a header that anybody can send is not believed."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        with called_from(request.META.get("REMOTE_ADDR") or ""):
            return self._get_response(request)
