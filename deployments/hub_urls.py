"""Pages of the Developer Hub that deployments own."""

from django.urls import path

from deployments.views import hub, testing

app_name = "hub"
_DEPLOYMENT = "deployments/<slug:organization>/<slug:name>/"

urlpatterns = [
    path("models/", hub.models, name="models"),
    path("models/<int:pk>/", hub.model, name="model"),
    path(_DEPLOYMENT, hub.deployment, name="deployment"),
    path(_DEPLOYMENT + "header/", hub.header, name="header"),
    path(_DEPLOYMENT + "testing/", testing.hub_testing, name="testing"),
    path(_DEPLOYMENT + "testing/send/", testing.hub_send_test, name="send-test"),
]
