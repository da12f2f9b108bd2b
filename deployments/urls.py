"""Pages of the Operations Console that deployments own."""

from django.urls import path, re_path

from deployments.views import catalog, clusters, create, detail, forget, lists, logs, settings, testing

app_name = "deployments"
_DEPLOYMENT = "deployments/<slug:organization>/<slug:name>/"
_NOUN = r"^(?P<noun>models|endpoints|clusters)/"

urlpatterns = [
    path("deployments/", lists.deployment_list, name="list"),
    path("deployments/rows/", lists.deployment_rows, name="rows"),
    path("deployments/new/", create.new_deployment, name="new"),
    path("deployments/new/fields/", create.specification_fields, name="specification-fields"),
    path(_DEPLOYMENT, detail.overview, name="detail"),
    path(_DEPLOYMENT + "overview/", detail.overview_body, name="overview-body"),
    path(_DEPLOYMENT + "header/", detail.header, name="header"),
    path(_DEPLOYMENT + "versions/", detail.versions, name="versions"),
    path(_DEPLOYMENT + "versions/rows/", detail.versions_body, name="versions-body"),
    path(_DEPLOYMENT + "versions/new/", create.new_version, name="new-version"),
    path(_DEPLOYMENT + "versions/new/fields/", create.version_fields, name="version-fields"),
    re_path(
        r"^deployments/(?P<organization>[-a-z0-9_]+)/(?P<name>[-a-z0-9_]+)/versions/(?P<number>\d{1,9})/(?P<action>start|stop|delete)/$",
        detail.version_action,
        name="version-action",
    ),
    re_path(
        r"^deployments/(?P<organization>[-a-z0-9_]+)/(?P<name>[-a-z0-9_]+)/versions/(?P<number>\d{1,9})/forget/$",
        forget.version,
        name="forget-version",
    ),
    path(_DEPLOYMENT + "forget/", forget.deployment, name="forget-deployment"),
    path(_DEPLOYMENT + "logs/", logs.logs, name="logs"),
    path(_DEPLOYMENT + "testing/", testing.testing, name="testing"),
    path(_DEPLOYMENT + "testing/send/", testing.send_test, name="send-test"),
    path(_DEPLOYMENT + "settings/", settings.settings, name="settings"),
    path(_DEPLOYMENT + "settings/access/", settings.access, name="access"),
    path(_DEPLOYMENT + "settings/limits/", settings.limits, name="limits"),
    path(_DEPLOYMENT + "settings/pricing/", settings.pricing, name="pricing"),
    path(_DEPLOYMENT + "settings/pricing/<int:pk>/withdraw/", settings.withdraw, name="withdraw-price"),
    path(_DEPLOYMENT + "settings/scale/", settings.scale, name="scale"),
    path(_DEPLOYMENT + "settings/delete/", settings.delete, name="delete"),
    path("instances/<slug:uid>/log/", logs.earlier_lines, name="log-lines"),
    path("instances/<slug:uid>/log/download/", logs.download, name="log-download"),
    path("clusters/recipe/", clusters.recipe, name="cluster-recipe"),
    path("clusters/<int:pk>/take-charge/", clusters.take_charge, name="take-charge"),
    re_path(
        r"^clusters/(?P<pk>\d{1,15})/strangers/(?P<stranger_id>\d{1,15})/(?P<action>adopt|remove)/$",
        clusters.stranger,
        name="stranger",
    ),
    re_path(r"^(?P<noun>endpoints|clusters)/(?P<pk>\d{1,15})/forget/$", forget.catalog, name="catalog-forget"),
    path("instances/<slug:uid>/ends/<int:end>/", logs.last_words, name="last-words"),
    re_path(_NOUN + r"$", catalog.index, name="catalog"),
    re_path(_NOUN + r"new/$", catalog.create, name="catalog-new"),
    re_path(_NOUN + r"(?P<pk>\d{1,15})/$", catalog.detail, name="catalog-detail"),
    re_path(_NOUN + r"(?P<pk>\d{1,15})/edit/$", catalog.update, name="catalog-edit"),
    re_path(_NOUN + r"(?P<pk>\d{1,15})/delete/$", catalog.delete, name="catalog-delete"),
]
