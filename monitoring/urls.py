"""Pages that monitoring owns."""

from django.urls import path

from monitoring import exposition, fleet_views, moment, reconciliation_views, usage_views, views

app_name = "monitoring"
_DEPLOYMENT = "console/deployments/<slug:organization>/<slug:name>/"

urlpatterns = [
    path("metrics", exposition.metrics, name="metrics"),
    path("console/usage/", usage_views.usage_page, name="usage"),
    path("console/usage/chart/", usage_views.usage_chart, name="usage-chart"),
    path("console/usage/csv/", usage_views.usage_csv, name="usage-csv"),
    path("console/usage/reconciliation/", reconciliation_views.page, name="reconciliation"),
    path("console/usage/reconciliation/csv/", reconciliation_views.as_csv, name="reconciliation-csv"),
    path("hub/usage/", usage_views.own_usage_page, name="own-usage"),
    path("hub/usage/chart/", usage_views.own_usage_chart, name="own-usage-chart"),
    path("hub/usage/csv/", usage_views.own_usage_csv, name="own-usage-csv"),
    path("console/fleet/", fleet_views.fleet_page, name="fleet"),
    path("console/fleet/rows/", fleet_views.fleet_rows, name="fleet-rows"),
    path("console/gateways/", views.gateways, name="gateways"),
    path("console/gateways/body/", views.gateways_body, name="gateways-body"),
    path("console/deployments/rates/", views.rates, name="rates"),
    path(_DEPLOYMENT + "monitoring/", views.monitoring, name="monitoring"),
    path(_DEPLOYMENT + "monitoring/charts/", views.charts, name="charts"),
    path(_DEPLOYMENT + "monitoring/data/", views.panel_data, name="data"),
    path(_DEPLOYMENT + "monitoring/csv/", views.panel_csv, name="csv"),
    path(_DEPLOYMENT + "monitoring/moment/", moment.moment, name="moment"),
]
