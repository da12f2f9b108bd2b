"""Pages that keys own."""

from django.urls import path

from apikeys import views

app_name = "apikeys"

urlpatterns = [
    path("hub/keys/", views.own_keys, name="own"),
    path("hub/keys/new/", views.new_key, name="new"),
    path("hub/keys/applied/", views.applied, name="applied"),
    path("hub/keys/<int:pk>/", views.key_detail, name="key"),
    path("hub/keys/<int:pk>/rotate/", views.rotate, name="rotate"),
    path("hub/keys/<int:pk>/revoke/", views.revoke, name="revoke"),
    path("console/keys/", views.all_keys, name="all"),
    path("console/deployments/<slug:organization>/<slug:name>/keys/", views.deployment_keys, name="of-deployment"),
    path("console/deployments/<slug:organization>/<slug:name>/limits/use/", views.limit_use, name="limit-use"),
    path("hub/deployments/<slug:organization>/<slug:name>/limits/use/", views.own_limit_use, name="own-limit-use"),
]
