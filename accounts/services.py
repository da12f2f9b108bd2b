"""The writers of accounts: one transaction each, with its audit row."""

from datetime import timedelta

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts import audit, browser_sessions, time_zones
from accounts.models import ApiToken, Invitation, Member, Organization, User
from accounts.permissions import Actor, is_operator, may_manage
from accounts.usernames import username_error
from common import secret_token
from common.naming import RESERVED_ORGANIZATION_NAMES, name_error
from common.service_error import ForbiddenError, ServiceError


@transaction.atomic
def create_operator(username: str, password: str, *, actor: Actor = None) -> User:
    user = User.objects.create_user(username=username, password=password, is_operator=True)
    audit.record(actor=actor, action="create", thing=user)
    return user


def create_organization(name: str, title: str, *, actor: Actor = None) -> Organization:
    if not is_operator(actor):
        raise ForbiddenError("Organizations are made by operators.")
    problem = name_error(name)
    if name in RESERVED_ORGANIZATION_NAMES:
        problem = f"“{name}” is one of the console's own addresses. Choose another name."
    if problem:
        raise ServiceError(problem, field="name")
    try:
        with transaction.atomic():
            organization = Organization.objects.create(name=name, title=title)
            audit.record(actor=actor, action="create", thing=organization, organization_id=organization.pk)
    except IntegrityError:
        raise ServiceError("An organization of this name exists.", code="duplicate", field="name") from None
    return organization


@transaction.atomic
def set_time_zone(organization: Organization, name: str, *, actor: Actor) -> None:
    """From now on; what is booked stays in its day."""
    if not may_manage(actor, organization.pk):
        raise ForbiddenError("You may not change this organization.")
    if name not in time_zones.names():
        raise ServiceError("Choose a time zone from the list, such as Europe/Berlin.", field="time_zone")
    before = Organization.objects.select_for_update(no_key=True).get(pk=organization.pk).time_zone
    if before != name:
        Organization.objects.filter(pk=organization.pk).update(time_zone=name)
        organization.time_zone = name
        changes = {"time_zone": [before, name]}
        audit.record(actor=actor, action="update", thing=organization, organization_id=organization.pk, changes=changes)


@transaction.atomic
def add_member(organization: Organization, user: User, role: str, *, actor: Actor = None) -> Member:
    member = Member.objects.create(organization=organization, user=user, role=role)
    audit.record(
        actor=actor, action="add_member", thing=user, organization_id=organization.pk, changes={"role": [None, role]}
    )
    return member


@transaction.atomic
def change_role(member: Member, role: str, *, actor: Actor) -> None:
    locked = _locked(member, actor)
    if locked.role == role:
        return
    _check_admin_left(locked, actor)
    changes = {"role": [locked.role, role]}
    locked.role = role
    locked.save(update_fields=["role"])
    audit.record(actor=actor, action="update", thing=locked, organization_id=locked.organization_id, changes=changes)


@transaction.atomic
def remove_member(member: Member, *, actor: Actor) -> None:
    """The member's keys open nothing of the organization any more; what they made stays."""
    locked = _locked(member, actor)
    _check_admin_left(locked, actor)
    audit.record(actor=actor, action="remove", thing=locked, organization_id=locked.organization_id)
    locked.delete()


def _locked(member: Member, actor: Actor) -> Member:
    """The member as it is now; nobody else changes the organization's members until the transaction's end."""
    if not may_manage(actor, member.organization_id):
        raise ForbiddenError("You may not change the members of this organization.")
    Organization.objects.select_for_update(no_key=True).get(pk=member.organization_id)
    found = Member.objects.filter(pk=member.pk).select_related("user", "organization").first()
    if found is None:
        raise ServiceError("The member was removed meanwhile.", code="conflict")
    return found


def _check_admin_left(member: Member, actor: Actor) -> None:
    others = Member.objects.filter(organization=member.organization_id, role=Member.Role.ADMIN).exclude(pk=member.pk)
    if member.role == Member.Role.ADMIN and not is_operator(actor) and not others.exists():
        raise ServiceError("This is the last admin. Make another member admin first.", code="last_admin")


@transaction.atomic
def invite(organization: Organization, role: str, label: str, *, actor: User) -> tuple[Invitation, str]:
    """An invitation and the secret of its link, which can't be shown again."""
    if not may_manage(actor, organization.pk):
        raise ForbiddenError("You may not invite into this organization.")
    if role not in Member.Role.values:
        raise ServiceError("Choose a role.", field="role")
    if not label or len(label) > 120:
        raise ServiceError("Say for whom it is, in at most 120 characters.", field="label")
    secret = secret_token.new()
    invitation = Invitation.objects.create(
        organization=organization,
        role=role,
        label=label,
        digest=secret_token.digest_of(secret),
        created_by=actor,
        expires_at=timezone.now() + Invitation.LIFETIME,
    )
    audit.record(actor=actor, action="create", thing=invitation, organization_id=organization.pk)
    return invitation, secret


@transaction.atomic
def withdraw_invitation(invitation: Invitation, *, actor: Actor) -> None:
    if not may_manage(actor, invitation.organization_id):
        raise ForbiddenError("You may not withdraw this invitation.")
    audit.record(actor=actor, action="delete", thing=invitation, organization_id=invitation.organization_id)
    invitation.delete()


def open_invitation(digest: bytes) -> Invitation | None:
    """The invitation whose link's secret has this digest, while it is open and its inviter might still invite."""
    found = Invitation.objects.select_related("organization", "created_by").filter(digest=digest).first()
    if found is None or not found.is_open or not may_manage(found.created_by, found.organization_id):
        return None
    return found


def register(digest: bytes, username: str, password: str) -> User:
    """A new person joins by an invitation. Raises ServiceError with the field."""
    problem = username_error(username)
    if problem:
        raise ServiceError(problem, field="username")
    user = User(username=username)
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise ServiceError(" ".join(error.messages), field="password") from None
    user.set_password(password)
    try:
        with transaction.atomic():
            user.save(force_insert=True)
            _accept(digest, user)
    except IntegrityError:
        raise ServiceError("This name is taken. Choose another one.", code="duplicate", field="username") from None
    return user


@transaction.atomic
def join(digest: bytes, user: User) -> None:
    """A person with an account joins by an invitation."""
    _accept(digest, user)


def _accept(digest: bytes, user: User) -> None:
    found = open_invitation(digest)
    locked = Invitation.objects.select_for_update().filter(pk=found.pk, accepted_at=None).first() if found else None
    if locked is None:
        raise ServiceError("This invitation is not good any more. Ask for another one.", code="invitation_gone")
    if Member.objects.filter(organization=locked.organization_id, user=user).exists():
        raise ServiceError("You are a member already.", code="duplicate")
    locked.accepted_at = timezone.now()
    locked.save(update_fields=["accepted_at"])
    add_member(locked.organization, user, locked.role, actor=user)


def set_active(user: User, active: bool, *, actor: Actor) -> None:
    """Whether a person may sign in at all. Sessions, tokens and keys of theirs are refused at once; what they made stays."""
    _set_of_user(user, "is_active", active, actor, "You can't deactivate yourself. Let another operator do it.")


def sign_out(user: User, *, actor: Actor) -> None:
    """End all sessions of a person, whose password stays."""
    if not is_operator(actor):
        raise ForbiddenError("Only operators may sign others out.")
    browser_sessions.end_all(user, actor=actor)


def set_operator(user: User, operator: bool, *, actor: Actor) -> None:
    """Whether a person sees and manages everything."""
    _set_of_user(user, "is_operator", operator, actor, "You can't end this for yourself. Let another operator do it.")


@transaction.atomic
def _set_of_user(user: User, field: str, value: bool, actor: Actor, refusal: str) -> None:
    """One flag of a person. Nobody takes it from themselves, so an operator who is active always stays."""
    if not is_operator(actor):
        raise ForbiddenError("Only operators may change users.")
    if actor is not None and actor.pk == user.pk:
        raise ServiceError(refusal, code="own_account")
    # The actor too: two operators who deactivate each other at once would both be gone.
    locked = {item.pk: item for item in User.objects.select_for_update(no_key=True).filter(pk__in=[user.pk, getattr(actor, "pk", None)]).order_by("pk")}  # fmt: skip
    if user.pk not in locked:
        raise ServiceError("The user was deleted meanwhile.", code="conflict")
    if actor is not None and not is_operator(locked[actor.pk]):
        raise ForbiddenError("Only operators may change users.")
    found = locked[user.pk]
    before = getattr(found, field)
    if before == value:
        return
    setattr(found, field, value)
    found.save(update_fields=[field])
    audit.record(actor=actor, action="update", thing=found, changes={field: [before, value]})


@transaction.atomic
def create_api_token(
    user: User, label: str, *, scope: str = ApiToken.Scope.DEPLOY, lifetime_days: int = ApiToken.LIFETIME_DAYS
) -> tuple[ApiToken, str]:
    """A new token and its text, which can't be shown again."""
    text = secret_token.new(ApiToken.PREFIX)
    token = ApiToken.objects.create(
        user=user, label=label, digest=secret_token.digest_of(text), prefix=text[:10], scope=scope,
        lifetime_days=lifetime_days, expires_at=timezone.now() + timedelta(days=lifetime_days),
    )  # fmt: skip
    audit.record(actor=user, action="create", thing=token)
    return token, text


@transaction.atomic
def renew_api_token(token: ApiToken, *, actor: User) -> None:
    """Good for its lifetime again, from now on; its text stays."""
    before, token.expires_at = token.expires_at, timezone.now() + timedelta(days=token.lifetime_days)
    token.save(update_fields=["expires_at"])
    changes = {"expires_at": [f"{before:%Y-%m-%d}", f"{token.expires_at:%Y-%m-%d}"]}
    audit.record(actor=actor, action="update", thing=token, changes=changes)


@transaction.atomic
def delete_api_token(token: ApiToken, *, actor: User) -> None:
    audit.record(actor=actor, action="delete", thing=token)
    token.delete()
