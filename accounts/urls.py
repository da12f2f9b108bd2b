from django.urls import path

from accounts import own_account, views

app_name = "accounts"

urlpatterns = [
    path("sessions/<int:pk>/end/", own_account.end_session, name="end-session"),
    path("sessions/end/", own_account.end_other_sessions, name="end-other-sessions"),
    path("tokens/", views.tokens, name="tokens"),
    path("tokens/<int:pk>/renew/", views.renew_token, name="renew-token"),
    path("tokens/<int:pk>/delete/", views.delete_token, name="delete-token"),
]
