"""Pages of the Operations Console that monitoring owns."""

from django.urls import path

from monitoring import views

app_name = "monitoring"
_DEPLOYMENT = "deployments/<slug:organization>/<slug:name>/"

urlpatterns = [
    path("gateways/", views.gateways, name="gateways"),
    path("gateways/body/", views.gateways_body, name="gateways-body"),
    path("deployments/rates/", views.rates, name="rates"),
    path(_DEPLOYMENT + "monitoring/", views.monitoring, name="monitoring"),
    path(_DEPLOYMENT + "monitoring/charts/", views.charts, name="charts"),
    path(_DEPLOYMENT + "monitoring/data/", views.panel_data, name="data"),
]
