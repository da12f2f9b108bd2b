"""The web process: HTTP through Django, websockets through Channels, sign-in and origin checked for both."""

import os

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import OriginValidator
from django.conf import settings
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashboard.settings")
django_application = get_asgi_application()

from dashboard.edge import BodyLimit, TrustedProxies  # noqa: E402
from dashboard.session_keys import FollowSessionKeys  # noqa: E402
from deployments.websocket_urls import websocket_urlpatterns as deployments_sockets  # noqa: E402
from monitoring.websocket_urls import websocket_urlpatterns as monitoring_sockets  # noqa: E402

application = FollowSessionKeys(
    TrustedProxies(
        BodyLimit(
            ProtocolTypeRouter(
                {
                    "http": django_application,
                    # Pages of others on this host, the gateway's among them, have another port or scheme, and no business here.
                    "websocket": OriginValidator(
                        AuthMiddlewareStack(URLRouter([*deployments_sockets, *monitoring_sockets])),
                        settings.WEBSOCKET_ORIGINS,
                    ),
                }
            )
        ),
        settings.TRUSTED_PROXIES,
    )
)
