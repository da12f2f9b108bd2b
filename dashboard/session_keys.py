"""Django's own key, kept up with the installation's while a process runs."""

from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings

Application = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


class FollowSessionKeys:
    """Before each request and websocket: whatever Django signs or reads in it goes by the keys that are in force."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        use(settings.INSTALLATION_KEYS.sessions)
        await self._application(scope, receive, send)


def use(keys: tuple[str, ...]) -> None:
    """Sign with the first and read what any of them has signed."""
    if keys[0] == settings.SECRET_KEY and list(keys) == settings.SECRET_KEY_FALLBACKS:
        return
    # These first, and all of them: requests in other threads read what either key has signed, at each moment.
    settings.SECRET_KEY_FALLBACKS = list(keys)
    settings.SECRET_KEY = keys[0]
