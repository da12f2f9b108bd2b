"""Error pages in plain words; under /api/ the same as JSON."""

from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render


def bad_request(request: HttpRequest, exception: Any = None) -> HttpResponse:
    if isinstance(exception, RequestDataTooBig):
        most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE >> 20
        return _answer(request, 413, "too_large", f"The request holds more than {most} MiB. Send less at once.")
    return _answer(
        request, 400, "invalid", "The request holds a value that can't be used here. Check the address and the fields."
    )


def forbidden(request: HttpRequest, exception: Any = None) -> HttpResponse:
    return _answer(request, 403, "forbidden", "You may not do this.")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    message = (
        "This page is from before you signed in or out, so nothing was done. Go back, load it again, and repeat it."
    )
    return _answer(request, 403, "stale_page", message)


def not_found(request: HttpRequest, exception: Any = None) -> HttpResponse:
    return _answer(request, 404, "not_found", "There is nothing at this address, or you may not see it.")


def too_many(request: HttpRequest) -> HttpResponse:
    return _answer(
        request, 429, "too_many_attempts", "That was tried too often in a short time. Try again in a minute."
    )


def server_error(request: HttpRequest) -> HttpResponse:
    return _answer(
        request, 500, "server_error", "Something went wrong on our side. The details are in the web process's log."
    )


def _answer(request: HttpRequest, status: int, code: str, message: str) -> HttpResponse:
    if request.path.startswith("/api/"):
        return JsonResponse({"error": {"code": code, "message": message}}, status=status)
    return render(request, "error.html", {"status": status, "message": message}, status=status)
