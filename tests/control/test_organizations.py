"""Organizations, their members and invitations: by operators and organization admins, and what joining and leaving mean."""

import re
from datetime import timedelta

import pytest
from django.db import IntegrityError
from django.urls import reverse
from django.utils import timezone

from accounts import services
from accounts.models import AuditEntry, Invitation, Member, Organization, User
from common import secret_token
from common.service_error import ForbiddenError, ServiceError

pytestmark = pytest.mark.django_db(transaction=True)
JOIN = "/accounts/join/"
PASSWORD = "a-long-enough-one-42"


def invitation_link(client, **values: str) -> str:
    data = {"role": "member", "label": "Ada"} | values
    page = client.post(reverse("organization-invite", args=["acme"]), data).content.decode()
    return re.search(r'data-testid="link">http://testserver([^<]+)<', page)[1]


def role_of(user: User, organization: Organization) -> str | None:
    return Member.objects.filter(user=user, organization=organization).values_list("role", flat=True).first()


def test_a_new_person_joins_by_a_link_that_works_once(client, people):
    client.force_login(people.admin)
    link = invitation_link(client, role="admin")
    shown = client.get(reverse("organization", args=["acme"])).content.decode()
    assert "Ada" in shown and link not in shown, "the link is shown once"
    client.logout()
    assert "Join Acme" in client.get(link, follow=True).content.decode()
    answer = client.post(JOIN, {"username": "ada", "password": PASSWORD}, follow=True)
    assert "Welcome to Acme" in answer.content.decode()
    ada = User.objects.get(username="ada")
    assert role_of(ada, people.ours) == "admin" and ada.check_password(PASSWORD) and not ada.is_operator
    client.logout()
    assert client.get(link).status_code == 404
    assert client.post(JOIN, {"username": "eve", "password": PASSWORD}).status_code == 404
    assert not User.objects.filter(username="eve").exists()
    assert PASSWORD not in str(list(AuditEntry.objects.values())) and link[-20:] not in str(
        list(AuditEntry.objects.values())
    )


def test_somebody_with_an_account_joins_without_another(client, people):
    client.force_login(people.admin)
    link = invitation_link(client)
    client.force_login(people.stranger)
    client.get(link)
    client.post(JOIN)
    assert role_of(people.stranger, people.ours) == "member"
    client.force_login(people.admin)
    again = invitation_link(client)
    client.force_login(people.stranger)
    client.get(again)
    assert "member already" in client.post(JOIN).content.decode()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"username": "", "password": PASSWORD}, "A name has"),
        ({"username": "member", "password": PASSWORD}, "is taken"),
        ({"username": "has space", "password": PASSWORD}, "A name has"),
        ({"username": "x" * 151, "password": PASSWORD}, "63"),
        ({"username": "ada", "password": "short"}, "at least 10"),
        ({"username": "ada", "password": "password123"}, "too common"),
    ],
)
def test_a_bad_name_or_password_is_told_and_costs_no_invitation(client, people, values, message, caplog):
    client.force_login(people.admin)
    link = invitation_link(client)
    client.logout()
    client.get(link)
    answer = client.post(JOIN, values)
    assert answer.status_code == 422 and message in answer.content.decode()
    assert link.split("/")[-2] not in caplog.text, "what is open stays out of the logs"
    assert Invitation.objects.get().is_open and not User.objects.filter(username="ada").exists()


def test_an_invitation_dies_by_withdrawal_by_time_and_with_its_inviters_rights(client, people):
    client.force_login(people.admin)
    withdrawn, late, orphaned = (invitation_link(client, label=name) for name in ("w", "l", "o"))
    client.post(reverse("organization-withdraw", args=["acme", Invitation.objects.get(label="w").pk]))
    Invitation.objects.filter(label="l").update(expires_at=timezone.now() - timedelta(seconds=1))
    deactivated = User.objects.create(username="gone")
    services.add_member(people.ours, deactivated, "admin")
    _, secret = services.invite(people.ours, "admin", "way back", actor=deactivated)
    services.set_active(deactivated, False, actor=people.operator)
    assert client.get(f"/accounts/join/{secret}/").status_code == 404
    services.add_member(people.ours, people.stranger, "admin")
    services.change_role(
        Member.objects.get(user=people.admin, organization=people.ours), "member", actor=people.operator
    )
    client.logout()
    for link in (withdrawn, late, orphaned):
        assert client.get(link).status_code == 404


def test_open_invitations_show_behind_many_that_were_accepted(client, people):
    client.force_login(people.admin)
    invitation_link(client, label="still open")
    for number in range(60):
        services.invite(people.ours, "member", f"old {number}", actor=people.admin)
    Invitation.objects.filter(label__startswith="old").update(accepted_at=timezone.now())
    page = client.get(reverse("organization", args=["acme"])).content.decode()
    assert "still open" in page and "old 59" not in page


def test_an_operator_of_an_empty_installation_may_administer(client, db):
    client.force_login(User.objects.create(username="first", is_operator=True))
    for name in ("administration", "organizations", "audit-log", "apikeys:all"):
        assert client.get(reverse(name)).status_code == 200, name


def test_roles_change_and_the_last_admin_stays(client, people):
    client.force_login(people.admin)
    admin, member = (Member.objects.get(user=user) for user in (people.admin, people.member))
    refused = client.post(reverse("organization-member", args=["acme", admin.pk]), {"role": "member"}, follow=True)
    assert "last admin" in refused.content.decode()
    client.post(reverse("organization-member", args=["acme", member.pk]), {"role": "admin"})
    client.post(reverse("organization-member", args=["acme", admin.pk]))
    assert role_of(people.admin, people.ours) == "admin", "a role that is missing removes nobody"
    client.post(reverse("organization-member-remove", args=["acme", admin.pk]))
    assert role_of(people.member, people.ours) == "admin" and role_of(people.admin, people.ours) is None
    assert client.get(reverse("organization", args=["acme"])).status_code == 404, "this user is no admin of it any more"
    with pytest.raises(ServiceError, match="last admin"):
        services.remove_member(Member.objects.get(user=people.member), actor=people.member)
    services.remove_member(Member.objects.get(user=people.member), actor=people.operator)
    told = AuditEntry.objects.filter(object_type="member").order_by("pk").values_list("action", "changes")
    assert list(told) == [("update", {"role": ["member", "admin"]}), ("remove", {}), ("remove", {})]


def test_only_managers_manage_and_only_operators_make_organizations(client, people):
    member = Member.objects.get(user=people.member)
    for user, expected in ((people.member, 404), (people.stranger, 404)):
        client.force_login(user)
        assert client.get(reverse("organization", args=["acme"])).status_code == expected
        for name, arguments in (
            ("organization-invite", ["acme"]),
            ("organization-member", ["acme", member.pk]),
            ("organization-member-remove", ["acme", member.pk]),
        ):
            assert client.post(reverse(name, args=arguments), {"role": "admin", "label": "x"}).status_code == expected
    client.force_login(people.admin)
    theirs = Member.objects.get(user=people.stranger)
    assert client.post(reverse("organization-member-remove", args=["acme", theirs.pk])).status_code == 404
    assert client.post(reverse("organizations"), {"name": "mine"}).status_code == 404
    listed = client.get(reverse("organizations")).content.decode()
    assert 'data-label="Members">2<' in listed
    assert "Acme" in listed and "Other" not in listed
    for call in (
        lambda: services.invite(people.ours, "member", "x", actor=people.member),
        lambda: services.change_role(member, "admin", actor=people.stranger),
        lambda: services.create_organization("mine", "", actor=people.admin),
    ):
        with pytest.raises(ForbiddenError):
            call()


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "part of an address"), ("Größe", "Try “groe”"), ("acme", "exists"), ("x" * 64, "at most 63")],
)
def test_a_bad_name_of_an_organization_is_told_at_its_field(client, people, name, message):
    client.force_login(people.operator)
    answer = client.post(reverse("organizations"), {"name": name, "title": "kept title"})
    page = answer.content.decode()
    assert answer.status_code == 422 and message in page and "kept title" in page
    client.post(reverse("organizations"), {"name": "research", "title": "Research"})
    assert Organization.objects.get(name="research").title == "Research"


def test_no_organization_hides_a_page_of_the_console(people):
    with pytest.raises(ServiceError, match="one of the console's own addresses"):
        services.create_organization("new", "New", actor=people.operator)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Operator", "taken"), ("OPERATOR", "taken"), ("0perator", "looks like an operator"), ("o-perator", "looks like an operator"), ("оperator", "Latin letters"),
        ("оperator", "letters, digits"), ("ann@example.com", "letters, digits"), ("", "letters, digits"), ("a" * 64, "letters, digits"),
        ("a b", "letters, digits"), ("a\n", "letters, digits"),
    ],
)  # fmt: skip
def test_nobody_joins_under_a_name_that_is_or_looks_like_an_operators(people, name, said):
    _, secret = services.invite(people.ours, "member", "Eve", actor=people.admin)
    with pytest.raises(ServiceError, match=said) as refused:
        services.register(secret_token.digest_of(secret), name, PASSWORD)
    assert refused.value.field == "username"


def test_an_operator_signs_in_after_somebody_tried_to_be_called_the_same(client, people):
    people.operator.set_password(PASSWORD)
    people.operator.save()
    _, secret = services.invite(people.ours, "member", "Eve", actor=people.admin)
    with pytest.raises(ServiceError):
        services.register(secret_token.digest_of(secret), "Operator", "another-long-one-42")
    with pytest.raises(IntegrityError):
        User.objects.create(username="OPERATOR")
    answer = client.post("/accounts/login/", {"login": "oPERATOR", "password": PASSWORD})
    assert answer.status_code == 302
