"""The web process: HTTP through Django, websockets through Channels, sign-in and origin checked for both."""

import os

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashboard.settings")
django_application = get_asgi_application()

from deployments.websocket_urls import websocket_urlpatterns as deployments_sockets  # noqa: E402
from monitoring.websocket_urls import websocket_urlpatterns as monitoring_sockets  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": django_application,
        "websocket": AllowedHostsOriginValidator(
            AuthMiddlewareStack(URLRouter([*deployments_sockets, *monitoring_sockets]))
        ),
    }
)
