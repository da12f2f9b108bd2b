"""What every page of the console needs."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest

from accounts.permissions import may_administer, may_manage_clusters


def console(request: HttpRequest) -> dict[str, Any]:
    user = getattr(request, "user", None)
    return {
        "gateway_url": settings.GATEWAY_URL,
        "shows_clusters": bool(user and user.is_authenticated and may_manage_clusters(user)),
        "may_administer": bool(user and user.is_authenticated and may_administer(user)),
    }
