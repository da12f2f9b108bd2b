"""What every API route shares: the shape of errors and of pages."""

from typing import Any

from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import DataError, InterfaceError, OperationalError
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.pagination import CursorPagination
from rest_framework.response import Response
from rest_framework.views import exception_handler as default_handler

from common.service_error import ForbiddenError, ServiceError

STATUS_OF_CODE = {"active": 409, "conflict": 409, "duplicate": 409, "in_use": 409}


class NameCursorPagination(CursorPagination):
    """Keyset pages: as fast on page 1,000 as on page 1, and no row twice while others come and go."""

    ordering = ("-created_at", "-pk")
    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200


def exception_handler(exception: Exception, context: dict[str, Any]) -> Response | None:
    """Every error as {"error": {"code", "message", "fields"?}}."""
    if isinstance(exception, ForbiddenError):
        return _error(403, "forbidden", str(exception))
    if isinstance(exception, ServiceError):
        fields = {field: [message] for field, message in exception.fields.items()}
        return _error(STATUS_OF_CODE.get(exception.code, 400), exception.code, str(exception), fields)
    if isinstance(exception, OperationalError | InterfaceError):
        return _error(
            503, "store_unavailable", "The database does not answer at the moment. Try again in a few seconds."
        )
    if isinstance(exception, DjangoValidationError):
        return _error(400, "invalid", "A value in the address can't be read, the cursor for example.")
    if isinstance(exception, RecursionError):
        return _error(400, "invalid", "The body is nested too deeply.")
    if isinstance(exception, DataError):
        return _error(400, "invalid", "A value holds characters that can't be stored.")
    response = default_handler(exception, context)
    if response is None:
        return None
    if isinstance(exception, ValidationError):
        fields = exception.detail if isinstance(exception.detail, dict) else {"non_field_errors": exception.detail}
        response.data = _error(400, "invalid", "Some fields are not right.", fields).data
    elif isinstance(exception, APIException):
        response.data = _error(response.status_code, str(exception.default_code), str(exception.detail)).data
    else:
        response.data = _error(response.status_code, "not_found", "There is no such thing, or you may not see it.").data
    return response


def _error(status: int, code: str, message: str, fields: Any = None) -> Response:
    error: dict[str, Any] = {"code": code, "message": message}
    if fields:
        error["fields"] = fields
    return Response(_sendable({"error": error}), status=status)


def _sendable(value: Any) -> Any:
    """Errors say what came; half of a surrogate pair came as JSON, and can't be sent."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_sendable(key): _sendable(item) for key, item in value.items()}
    return [_sendable(item) for item in value] if isinstance(value, list | tuple) else value
