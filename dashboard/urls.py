"""All addresses: the console, sign-in, the API and its description, and the health check."""

from allauth.account import views as sign_in
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import include, path, re_path
from django.views.generic import TemplateView
from drf_spectacular.views import SpectacularAPIView

from accounts import organizations, own_account, users
from accounts.audit_log import audit_log
from dashboard import quota_pages
from dashboard.administration import administration
from deployments.views import aliases


def healthz(request: HttpRequest) -> HttpResponse:
    """Alive: answers without asking any store, so that a restart of one doesn't take the page down too."""
    return HttpResponse("ok\n", content_type="text/plain")


urlpatterns = [
    path("", lambda request: redirect("deployments:list")),
    path("healthz", healthz),
    path("accounts/login/", sign_in.LoginView.as_view(), name="account_login"),
    path("accounts/logout/", sign_in.LogoutView.as_view(), name="account_logout"),
    # allauth links to these; accounts are in the operators' hands.
    path("accounts/signup/", lambda request: redirect("account_login"), name="account_signup"),
    path("accounts/password/none/", lambda request: redirect("account_reset_password"), name="account_set_password"),
    path("accounts/inactive/", lambda request: redirect("account_login"), name="account_inactive"),
    path(
        "accounts/password/",
        TemplateView.as_view(template_name="account/password_reset.html"),
        name="account_reset_password",
    ),
    re_path(
        r"^accounts/password/new/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>.+)/$",
        sign_in.password_reset_from_key,
        name="account_reset_password_from_key",
    ),
    path("account/", own_account.account, name="account_change_password"),
    path("account/second-factor/authenticate/", own_account.ask_for_code, name="mfa_authenticate"),
    path("account/second-factor/", include("allauth.mfa.urls")),
    path("accounts/reauthenticate/", sign_in.reauthenticate, name="account_reauthenticate"),
    path("account/", include("accounts.urls")),
    path("accounts/join/", organizations.join, name="join"),
    path("accounts/join/<str:secret>/", organizations.follow_link, name="invitation"),
    path("console/administration/", administration, name="administration"),
    path("console/audit/", audit_log, name="audit-log"),
    path("console/users/", users.index, name="users"),
    path("console/users/<int:pk>/<slug:action>/", users.change, name="user-change"),
    path("console/organizations/", organizations.index, name="organizations"),
    path("console/organizations/<slug:name>/", organizations.detail, name="organization"),
    path("console/organizations/<slug:name>/quota/", quota_pages.of_organization, name="organization-quota"),
    path("console/organizations/<slug:name>/time-zone/", organizations.set_time_zone, name="organization-time-zone"),
    path("console/organizations/<slug:name>/aliases/", aliases.of_organization, name="organization-aliases"),
    path("console/organizations/<slug:name>/aliases/remove/", aliases.remove, name="organization-alias-remove"),
    path("console/clusters/<int:pk>/quota/", quota_pages.of_cluster, name="cluster-quota"),
    path("console/organizations/<slug:name>/invite/", organizations.invite, name="organization-invite"),
    path(
        "console/organizations/<slug:name>/invitations/<int:pk>/withdraw/",
        organizations.withdraw,
        name="organization-withdraw",
    ),
    path(
        "console/organizations/<slug:name>/members/<int:pk>/", organizations.change_member, name="organization-member"
    ),
    path(
        "console/organizations/<slug:name>/members/<int:pk>/remove/",
        organizations.remove_member,
        name="organization-member-remove",
    ),
    path("", include("apikeys.urls")),
    path("", include("monitoring.urls")),
    path("", include("async_inference.urls")),
    path("hub/", lambda request: redirect("hub:models")),
    path("hub/", include("deployments.hub_urls")),
    path("console/", include("deployments.urls")),
    path("api/v1/", include("deployments.api.urls")),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", login_required(TemplateView.as_view(template_name="api_docs.html")), name="api-docs"),
]

handler400 = "dashboard.errors.bad_request"
handler403 = "dashboard.errors.forbidden"
handler404 = "dashboard.errors.not_found"
handler429 = "dashboard.errors.too_many"
handler500 = "dashboard.errors.server_error"
