"""Addresses of monitoring's websockets."""

from django.urls import re_path

from monitoring.consumers import MetricsConsumer

websocket_urlpatterns = [
    re_path(r"^ws/metrics/(?P<organization>[a-z0-9-]{1,63})/(?P<name>[a-z0-9-]{1,63})/$", MetricsConsumer.as_asgi())
]
