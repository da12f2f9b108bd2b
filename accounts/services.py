"""The writers of accounts: one transaction each, with its audit row."""

from django.db import transaction

from accounts import audit
from accounts.models import ApiToken, Member, Organization, User
from accounts.permissions import Actor


@transaction.atomic
def create_operator(username: str, password: str, *, actor: Actor = None) -> User:
    user = User.objects.create_user(username=username, password=password, is_operator=True)
    audit.record(actor=actor, action="create", thing=user)
    return user


@transaction.atomic
def create_organization(name: str, title: str, *, actor: Actor = None) -> Organization:
    organization = Organization.objects.create(name=name, title=title)
    audit.record(actor=actor, action="create", thing=organization, organization_id=organization.pk)
    return organization


@transaction.atomic
def add_member(organization: Organization, user: User, role: str, *, actor: Actor = None) -> Member:
    member = Member.objects.create(organization=organization, user=user, role=role)
    audit.record(
        actor=actor, action="add_member", thing=user, organization_id=organization.pk, changes={"role": [None, role]}
    )
    return member


@transaction.atomic
def create_api_token(user: User, label: str) -> tuple[ApiToken, str]:
    """A new token and its text, which can't be shown again."""
    text = ApiToken.new_token()
    token = ApiToken.objects.create(user=user, label=label, digest=ApiToken.digest_of(text), prefix=text[:10])
    audit.record(actor=user, action="create", thing=token)
    return token, text


@transaction.atomic
def delete_api_token(token: ApiToken, *, actor: User) -> None:
    audit.record(actor=actor, action="delete", thing=token)
    token.delete()
