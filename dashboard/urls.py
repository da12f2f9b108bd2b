from django.http import HttpResponse
from django.urls import path

urlpatterns: list = [path("healthz", lambda request: HttpResponse("ok"))]
