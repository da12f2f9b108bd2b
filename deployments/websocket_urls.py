"""Addresses of websockets."""

from django.urls import re_path

from deployments.consumers import LiveConsumer, LogConsumer, TestConsumer

websocket_urlpatterns = [
    re_path(r"^ws/live/$", LiveConsumer.as_asgi()),
    re_path(r"^ws/logs/(?P<uid>[0-9a-zA-Z-]{1,64})/$", LogConsumer.as_asgi()),
    re_path(r"^ws/tests/(?P<test_id>[0-9a-f]{16})/$", TestConsumer.as_asgi()),
]
