"""What services refuse, in words for people; `field` names the form field at fault."""


class ServiceError(Exception):
    def __init__(self, message: str, *, code: str = "refused", field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.field = field


class ForbiddenError(ServiceError):
    """The actor may not; to a stranger it looks as if the thing did not exist."""
