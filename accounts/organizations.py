"""Pages of organizations: their members, and the invitations by which people join."""

from typing import Any

from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.db.models import Count
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from accounts import services, time_zones
from accounts.models import Invitation, Member, Organization
from accounts.permissions import is_operator, managed_organizations, may_administer, may_manage
from common import secret_token
from common.numbers import whole
from common.service_error import ServiceError
from common.shown_once import shown_once

PAGE_SIZE = 50
# In the session: the digest of the invitation whose link was followed.
INVITATION = "invitation"
BACKEND = "allauth.account.auth_backends.AuthenticationBackend"


@login_required
def index(request: HttpRequest) -> HttpResponse:
    """All for operators, their own for admins; operators make new ones here."""
    if not may_administer(request.user):
        raise Http404
    managed = managed_organizations(request.user)
    error: ServiceError | None = None
    if request.method == "POST":
        if not is_operator(request.user):
            raise Http404
        try:
            name, title = (request.POST.get(field, "").strip() for field in ("name", "title"))
            made = services.create_organization(name, title[:120], actor=request.user)
            messages.success(request, f"{made} is there. Invite its people.")
            return redirect("organization", made.name)
        except ServiceError as refused:
            error = refused
    after = request.GET.get("after", "")
    # Anew, else the members counted would be the memberships by which the actor manages them.
    found = Organization.objects.filter(pk__in=managed.values("pk"), name__gt=after)
    rows = list(found.annotate(member_count=Count("members")).order_by("name")[: PAGE_SIZE + 1])
    context = {
        "rows": rows[:PAGE_SIZE],
        "next_after": rows[PAGE_SIZE - 1].name if len(rows) > PAGE_SIZE else "",
        "may_create": is_operator(request.user),
        "error": error,
        "typed": request.POST,
    }
    return render(request, "accounts/organizations.html", context, status=422 if error else 200)


@login_required
def detail(request: HttpRequest, name: str) -> HttpResponse:
    organization = _managed(request, name)
    return render(request, "accounts/organization.html", _context(request, organization))


@login_required
@require_POST
@shown_once(back="organizations")
def invite(request: HttpRequest, name: str) -> HttpResponse:
    """Makes an invitation and shows its link this once."""
    organization = _managed(request, name)
    shown: dict[str, Any] = {"typed": request.POST}
    try:
        label = request.POST.get("label", "").strip().replace("\0", "")
        invitation, secret = services.invite(organization, request.POST.get("role", ""), label, actor=request.user)
        shown = {"invitation": invitation, "link": request.build_absolute_uri(reverse("invitation", args=[secret]))}
    except ServiceError as error:
        shown["error"] = str(error)
    context = _context(request, organization) | shown
    return render(request, "accounts/organization.html", context, status=422 if "error" in shown else 200)


@login_required
@require_POST
def set_time_zone(request: HttpRequest, name: str) -> HttpResponse:
    organization = _managed(request, name)
    try:
        services.set_time_zone(organization, request.POST.get("time_zone", ""), actor=request.user)
        messages.success(request, f"Billing days follow {organization.time_zone} from now on.")
    except ServiceError as error:
        messages.error(request, str(error))
    return redirect("organization", name)


@login_required
@require_POST
def withdraw(request: HttpRequest, name: str, pk: int) -> HttpResponse:
    organization = _managed(request, name)
    invitation = get_object_or_404(Invitation, organization=organization, pk=pk)
    services.withdraw_invitation(invitation, actor=request.user)
    messages.success(request, "The invitation is withdrawn; its link is dead.")
    return redirect("organization", name)


@login_required
@require_POST
def change_member(request: HttpRequest, name: str, pk: int) -> HttpResponse:
    """Another role."""
    member = get_object_or_404(Member, organization=_managed(request, name), pk=pk)
    role = request.POST.get("role", "")
    try:
        if role not in Member.Role.values:
            raise ServiceError("Choose a role.", field="role")
        services.change_role(member, role, actor=request.user)
        messages.success(request, f"{member.user} is {Member.Role(role).label.lower()} now.")
    except ServiceError as error:
        messages.error(request, str(error))
    return _back_to(request, member.organization)


@login_required
@require_POST
def remove_member(request: HttpRequest, name: str, pk: int) -> HttpResponse:
    member = get_object_or_404(Member, organization=_managed(request, name), pk=pk)
    try:
        services.remove_member(member, actor=request.user)
        messages.success(request, f"{member.user} is no member any more.")
    except ServiceError as error:
        messages.error(request, str(error))
    return _back_to(request, member.organization)


def follow_link(request: HttpRequest, secret: str) -> HttpResponse:
    """Where an invitation's link leads. The session takes its digest along: an address would end up in logs."""
    digest = secret_token.digest_of(secret)
    if services.open_invitation(digest) is None:
        return render(request, "accounts/join.html", {"invitation": None}, status=404)
    request.session[INVITATION] = digest.hex()
    return redirect("join")


def join(request: HttpRequest) -> HttpResponse:
    """With an account one joins, without one it is made here."""
    digest = bytes.fromhex(request.session.get(INVITATION, ""))
    invitation = services.open_invitation(digest)
    if invitation is None:
        return render(request, "accounts/join.html", {"invitation": None}, status=404)
    error: ServiceError | None = None
    if request.method == "POST":
        try:
            if request.user.is_authenticated:
                services.join(digest, request.user)
            else:
                username = request.POST.get("username", "").strip()
                user = services.register(digest, username, request.POST.get("password", ""))
                login(request, user, backend=BACKEND)
            request.session.pop(INVITATION, None)
            messages.success(request, f"Welcome to {invitation.organization}.")
            return redirect("deployments:list")
        except ServiceError as refused:
            error = refused
    context = {"invitation": invitation, "error": error, "username": request.POST.get("username", "")}
    return render(request, "accounts/join.html", context, status=422 if error else 200)


def _context(request: HttpRequest, organization: Organization) -> dict[str, Any]:
    after = whole(request.GET.get("after", ""))
    members = organization.members.select_related("user").order_by("pk")
    rows = list((members.filter(pk__gt=after) if after is not None else members)[: PAGE_SIZE + 1])
    invitations = organization.invitations.filter(accepted_at=None, expires_at__gt=timezone.now())
    return {
        "organization": organization,
        "members": rows[:PAGE_SIZE],
        "next_after": rows[PAGE_SIZE - 1].pk if len(rows) > PAGE_SIZE else None,
        "invitations": invitations.select_related("created_by")[:PAGE_SIZE],
        "roles": Member.Role.choices,
        "time_zones": time_zones.names(),
    }


def _back_to(request: HttpRequest, organization: Organization) -> HttpResponse:
    """To its page, unless the user has just handed it over."""
    if not may_manage(request.user, organization.pk):
        return redirect("deployments:list")
    return redirect("organization", organization.name)


def _managed(request: HttpRequest, name: str) -> Organization:
    return get_object_or_404(managed_organizations(request.user), name=name)
