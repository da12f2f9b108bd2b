from django.urls import path

from accounts import views

app_name = "accounts"

urlpatterns = [
    path("tokens/", views.tokens, name="tokens"),
    path("tokens/<int:pk>/renew/", views.renew_token, name="renew-token"),
    path("tokens/<int:pk>/delete/", views.delete_token, name="delete-token"),
]
