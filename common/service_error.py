"""What services refuse, in words for people; `field` names the form field at fault."""

from typing import Any


class ServiceError(Exception):
    """`fields`: every field at fault with what is wrong with it; the first one is `field`, and its words the error's own."""

    def __init__(self, message: str, *, code: str = "refused", field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.fields = {field: message} if field else {}

    @classmethod
    def of_fields(cls, problems: dict[str, str], *, code: str) -> "ServiceError":
        """`problems`: at least one."""
        field, message = next(iter(problems.items()))
        error = cls(message, code=code, field=field)
        error.fields = dict(problems)
        return error

    def tell(self, *forms: Any) -> None:
        """Put each problem at its field, in the first of the Django forms that has it; else above the last one."""
        for field, message in (self.fields or {"": str(self)}).items():
            form = next((item for item in forms if field in item.fields), None)
            (form or forms[-1]).add_error(field if form is not None else None, message)


class ForbiddenError(ServiceError):
    """The actor may not; to a stranger it looks as if the thing did not exist."""
