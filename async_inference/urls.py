"""Pages that the queue of asynchronous requests owns."""

from django.urls import path

from async_inference import own_views, views

app_name = "async"
_DEPLOYMENT = "console/deployments/<slug:organization>/<slug:name>/async/"
_HUB = "hub/deployments/<slug:organization>/<slug:name>/async/"

urlpatterns = [
    path(_DEPLOYMENT, views.queue, name="queue"),
    path(_DEPLOYMENT + "rows/", views.queue_rows, name="rows"),
    path(_DEPLOYMENT + "empty/", views.empty, name="empty"),
    path(_DEPLOYMENT + "settings/", views.settings, name="settings"),
    path(_DEPLOYMENT + "send/", own_views.send, name="send"),
    path(_DEPLOYMENT + "requests/<str:uid>/", views.one, name="one"),
    path(_DEPLOYMENT + "requests/<str:uid>/result/", views.result, name="result"),
    path(_DEPLOYMENT + "requests/<str:uid>/<slug:action>/", views.act, name="act"),
    path(_HUB + "send/", own_views.send_own, name="send-own"),
    path("hub/requests/", own_views.own_requests, name="own"),
    path("hub/requests/rows/", own_views.own_rows, name="own-rows"),
    path("hub/requests/secret/", own_views.change_secret, name="change-secret"),
    path("hub/requests/<str:uid>/", own_views.own_one, name="own-one"),
    path("hub/requests/<str:uid>/result/", own_views.own_result, name="own-result"),
    path("hub/requests/<str:uid>/state/", own_views.own_state, name="own-state"),
    path("hub/requests/<str:uid>/<slug:action>/", own_views.own_act, name="own-act"),
]
