"""The page of people: what deactivation and the operator's mark mean, and that somebody is always left."""

import threading

import pytest
from django.db import connection
from django.urls import reverse

from accounts.models import AuditEntry, Member, User
from accounts.services import create_api_token, set_active, set_operator
from apikeys import directory
from apikeys.services import create_key
from common.service_error import ForbiddenError, ServiceError
from tests.conftest import sign_in

pytestmark = pytest.mark.django_db(transaction=True)


def press(client, user: User, action: str):
    return client.post(reverse("user-change", args=[user.pk, action]), follow=True)


def test_whoever_is_deactivated_is_out_everywhere_and_comes_back_with_everything(client, people):
    create_key(people.member, people.ours, "key")
    _, token = create_api_token(people.member, "token")
    client.force_login(people.member)
    headers = {"authorization": f"Bearer {token}"}
    assert client.get("/api/v1/models/", headers=headers).status_code == 200
    set_active(people.member, False, actor=people.operator)
    assert client.get(reverse("deployments:list")).status_code == 302, "the session ended"
    client.logout()
    assert client.get("/api/v1/models/", headers=headers).status_code == 401
    assert directory.count() == 0
    set_active(people.member, True, actor=people.operator)
    assert client.get("/api/v1/models/", headers=headers).status_code == 200 and directory.count() == 1
    assert Member.objects.filter(user=people.member).exists()


def test_the_page_and_its_buttons(client, people):
    client.force_login(people.operator)
    page = client.get(reverse("users")).content.decode()
    assert "member" in page and "Acme" in page and page.count("Deactivate<") == 3, "not for oneself"
    assert "is an operator now" in press(client, people.member, "make-operator").content.decode()
    people.member.refresh_from_db()
    assert people.member.is_operator
    assert "Let another operator do it" in press(client, people.operator, "deactivate").content.decode()
    assert "sign in any more" in press(client, people.member, "deactivate").content.decode()
    press(client, people.member, "end-operator")
    changes = (
        AuditEntry.objects.filter(object_type="user", action="update").order_by("pk").values_list("changes", flat=True)
    )
    assert list(changes) == [
        {"is_operator": [False, True]},
        {"is_active": [True, False]},
        {"is_operator": [True, False]},
    ]
    assert client.post(reverse("user-change", args=[people.member.pk, "promote"])).status_code == 404
    assert "Nobody matches" in client.get(reverse("users"), {"search": "no such\0"}).content.decode()
    assert "stranger" in client.get(reverse("users"), {"search": "other"}).content.decode()


def test_only_operators_change_people(client, people):
    for user in (people.admin, people.member):
        client.force_login(user)
        assert client.get(reverse("users")).status_code == 404
        assert client.post(reverse("user-change", args=[people.operator.pk, "deactivate"])).status_code == 404
        with pytest.raises(ForbiddenError):
            set_operator(user, True, actor=user)


def test_two_operators_who_deactivate_each_other_at_once_are_not_both_gone(people):
    other = User.objects.create(username="second", is_operator=True)
    barrier = threading.Barrier(2)

    def act(user: User, actor: User) -> None:
        barrier.wait()
        try:
            set_active(user, False, actor=actor)
        except ServiceError:
            pass
        finally:
            connection.close()

    threads = [threading.Thread(target=act, args=pair) for pair in ((other, people.operator), (people.operator, other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert User.objects.filter(is_operator=True, is_active=True).count() == 1


def test_many_people_come_page_by_page_with_a_fixed_number_of_queries(client, people, django_assert_max_num_queries):
    User.objects.bulk_create([User(username=f"u{number}") for number in range(120)])
    sign_in(client, people.operator)
    with django_assert_max_num_queries(6):
        page = client.get(reverse("users")).content.decode()
    assert page.count('data-label="State"') == 50 and "?after=" in page
