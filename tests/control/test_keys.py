"""Keys and access in the control plane: who may make, change and revoke them, and what the gateways read of it."""

import re
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from accounts.models import AuditEntry, Member, User
from accounts.services import add_member, create_organization
from apikeys import directory, services
from apikeys.models import ApiKey
from common import secret_token
from common.service_error import ForbiddenError, ServiceError
from deployments.models import Deployment, DirectoryVersion
from deployments.selectors import usable_deployments
from deployments.services import versions
from deployments.services.access import set_access
from deployments.services.deployments import delete_deployment
from gateway.access.callers import Caller
from gateway.access.key_ring import KeyRing
from gateway.routing.directory import Directory, read_snapshot
from tests.conftest import sign_in
from tests.control.test_reconcile import becomes

pytestmark = pytest.mark.django_db(transaction=True)
KEY_ONLY = Deployment.Access.KEY_ONLY


@pytest.fixture
def deployment(deploy) -> Deployment:
    return deploy()


class Reader:
    """The keys of a gateway that follows the directory as the real one's thread does."""

    def __init__(self, folder) -> None:
        self.ring = KeyRing(folder / "keys")
        self._directory = Directory(folder, self.ring, lambda snapshot: None, lambda version: None, lambda count: None)
        self._directory._refresh()

    def follow(self) -> KeyRing:
        self._directory._refresh_keys(DirectoryVersion.objects.get(pk=1).v, is_full=False)
        return self.ring

    def __call__(self, secret: str) -> Caller | None:
        """What is known of a key when the changes have been read; None when it is refused."""
        return self.follow().callers.get(secret_token.digest_of(secret))


@pytest.fixture
def caller(tmp_path, people) -> Reader:
    return Reader(tmp_path)


def test_a_key_is_known_to_gateways_from_creation_to_revocation(people, deployment, caller):
    key, secret = services.create_key(people.member, people.ours, "notebook")
    known = caller(secret)
    assert (known.key_id, known.user_id, known.organization_id) == (key.pk, people.member.pk, people.ours.pk)
    assert known.organizations == {people.ours.pk} and known.deployments is None
    assert secret not in str(ApiKey.objects.values().get()) and key.prefix == secret[:10]
    before = DirectoryVersion.objects.get(pk=1).v
    services.revoke_key(key, actor=people.member)
    services.revoke_key(key, actor=people.member)
    assert caller(secret) is None and DirectoryVersion.objects.get(pk=1).v > before
    actions = AuditEntry.objects.filter(object_type="apikey").order_by("pk").values_list("action", flat=True)
    assert list(actions) == ["create", "revoke"], "twice is once"
    assert secret not in str(list(AuditEntry.objects.values()))


def test_the_secret_before_a_rotation_is_good_for_its_grace(people, deployment, caller):
    key, first = services.create_key(people.member, people.ours, "notebook")
    second = services.rotate_key(key, timedelta(hours=1), actor=people.member)
    assert caller(second).key_id == caller(first).key_id == key.pk
    assert caller(second).expires_at == float("inf")
    assert caller(first).expires_at == pytest.approx((timezone.now() + timedelta(hours=1)).timestamp(), abs=5)
    third = services.rotate_key(key, timedelta(), actor=people.member)
    assert caller(first) is None, "only one secret before is good"
    assert caller(second).expires_at <= timezone.now().timestamp()
    services.revoke_key(key, actor=people.member)
    assert [caller(secret) for secret in (first, second, third)] == [None] * 3
    with pytest.raises(ServiceError, match="revoked"):
        services.rotate_key(key, timedelta(), actor=people.member)
    with pytest.raises(ServiceError, match="30 days"):
        services.rotate_key(key, timedelta(days=31), actor=people.member)


def test_a_key_for_chosen_deployments_opens_those_and_is_converted_both_ways(people, deployment, caller):
    key, secret = services.create_key(people.member, people.ours, "narrow", deployments=[deployment])
    assert caller(secret).deployments == {deployment.pk}
    services.change_scope(key, None, actor=people.member)
    assert caller(secret).deployments is None
    key.refresh_from_db()
    services.change_scope(key, [deployment], actor=people.member)
    assert caller(secret).deployments == {deployment.pk}
    changes = (
        AuditEntry.objects.filter(object_type="apikey", action="update")
        .order_by("pk")
        .values_list("changes", flat=True)
    )
    assert [item["deployments"] for item in changes] == [["1 chosen", "all"], ["all", "1 chosen"]]
    with pytest.raises(ServiceError, match="at least one"):
        services.change_scope(key, [], actor=people.member)


def test_a_key_whose_deployments_are_gone_opens_nothing(people, deployment, caller):
    _, secret = services.create_key(people.member, people.ours, "narrow", deployments=[deployment])
    version = deployment.versions.get()
    versions.stop_version(version, actor=people.operator)
    becomes(version, "stopped")
    delete_deployment(deployment, actor=people.operator)
    assert caller(secret).deployments == frozenset()


def test_nobody_makes_or_changes_keys_beyond_his_rights(people, deployment):
    with pytest.raises(ForbiddenError):
        services.create_key(people.stranger, people.ours, "on their account")
    with pytest.raises(ForbiddenError):
        services.create_key(people.stranger, people.theirs, "narrow", deployments=[deployment])
    key, _ = services.create_key(people.member, people.ours, "notebook")
    with pytest.raises(ForbiddenError):
        services.revoke_key(key, actor=people.stranger)
    for actor in (people.stranger, people.admin, people.operator):
        with pytest.raises(ForbiddenError):
            services.change_scope(key, None, actor=actor)
    with pytest.raises(ForbiddenError):
        services.rotate_key(key, timedelta(), actor=people.admin)
    services.revoke_key(key, actor=people.admin)
    with pytest.raises(ServiceError, match="has passed"):
        services.create_key(people.member, people.ours, "late", expires_at=timezone.now())


def test_who_leaves_an_organization_or_is_deactivated_loses_its_deployments_with_his_keys(people, deployment, caller):
    _, secret = services.create_key(people.member, people.ours, "notebook")
    version = DirectoryVersion.objects.get(pk=1).v
    Member.objects.get(user=people.member).delete()
    assert caller(secret) is None, "nobody calls on the account of an organization that they have left"
    add_member(people.ours, people.member, "member")
    assert caller(secret) is not None
    people.member.is_active = False
    people.member.save()
    assert caller(secret) is None
    assert DirectoryVersion.objects.get(pk=1).v == version + 3, "gateways are told of each"
    people.member.save(update_fields=["last_login"])
    assert DirectoryVersion.objects.get(pk=1).v == version + 3


def test_access_and_sharing_reach_the_gateways_and_the_audit_log(people, deployment, caller):
    friends = create_organization("friends", "Friends")
    set_access(deployment, KEY_ONLY, "specific", [friends, people.ours], actor=people.admin)
    (target,) = read_snapshot().targets
    assert (target.is_public, target.is_shared_with_all, target.shared_with) == (False, False, (friends.pk,))
    friend = User.objects.create(username="friend")
    add_member(friends, friend, "member")
    assert list(usable_deployments(friend)) == [deployment]
    assert not usable_deployments(people.stranger).filter(pk=deployment.pk).exists()
    _, secret = services.create_key(friend, friends, "theirs", deployments=[deployment])
    assert caller(secret).may_call(target)
    set_access(deployment, KEY_ONLY, "none", [friends], actor=people.admin)
    (target,) = read_snapshot().targets
    assert not caller(secret).may_call(target)
    set_access(deployment, KEY_ONLY, "all", actor=people.admin)
    set_access(deployment, KEY_ONLY, "all", actor=people.admin)
    assert read_snapshot().targets[0].is_shared_with_all and usable_deployments(people.stranger).count() == 1
    told = [
        item.changes for item in AuditEntry.objects.filter(object_type="deployment", action="update").order_by("pk")
    ]
    assert told == [
        {"access": ["public", "key_only"], "sharing": ["none", "specific"], "shared_with": [[], ["friends"]]},
        {"sharing": ["specific", "none"], "shared_with": [["friends"], []]},
        {"sharing": ["none", "all"]},
    ]
    with pytest.raises(ServiceError, match="at least one other"):
        set_access(deployment, KEY_ONLY, "specific", [people.ours], actor=people.admin)
    for actor in (people.member, people.stranger):
        with pytest.raises(ForbiddenError):
            set_access(deployment, "public", "none", actor=actor)


def test_a_change_is_read_alone_and_a_fingerprint_tells_of_what_was_missed(people, deployment, caller):
    for number in range(20):
        services.create_key(people.member, people.ours, f"key {number}")
    key, secret = services.create_key(people.member, people.ours, "one", deployments=[deployment])
    ring = caller.follow()
    read_at = ring.version
    services.change_scope(key, None, actor=people.member)
    assert [row[0] for row in directory.rows(changed_since=read_at)] == [key.pk]
    caller.follow()
    assert directory.fingerprint() == ring.fingerprint
    # Past the services, as a hand in the database does.
    ApiKey.objects.filter(pk=key.pk).update(user=people.stranger)
    assert directory.fingerprint() != ring.fingerprint
    key.delete()
    assert directory.count() != ring.count
    assert caller(secret) is None, "a deleted one is missed at once"


def test_the_directory_takes_a_fixed_number_of_queries(people, deployment, caller, django_assert_num_queries):
    for number in range(3):
        services.create_key(people.member, people.ours, f"key {number}", deployments=[deployment])
    caller.follow()
    with django_assert_num_queries(10):
        read_snapshot()
    for number in range(20):
        services.create_key(people.member, people.ours, f"more {number}")
    with django_assert_num_queries(10):
        read_snapshot()
    with django_assert_num_queries(3):
        caller.follow()


def test_last_used_only_moves_forward(people, deployment):
    key, _ = services.create_key(people.member, people.ours, "notebook")
    for minute in (1_700_000_060, 1_700_000_000):
        services.mark_used({key.pk: minute, key.pk + 1000: minute})
    key.refresh_from_db()
    assert key.last_used_at.timestamp() == 1_700_000_120


class TestPages:
    def test_a_key_from_creation_to_revocation(self, client, people, deployment):
        client.force_login(people.member)
        data = {"name": "notebook", "organization": people.ours.pk, "expires": "30", "scope": "deployments", "deployments": [deployment.pk]}  # fmt: skip
        page = client.post(reverse("apikeys:new"), data).content.decode()
        key = ApiKey.objects.get()
        secret = re.search(r'data-testid="new-key">(slk_[^<]+)<', page)[1]
        assert secret_token.digest_of(secret) == bytes(key.digest)
        assert 29 <= (key.expires_at - timezone.now()).days <= 30
        for name, arguments in (("own", []), ("key", [key.pk])):
            shown = client.get(reverse(f"apikeys:{name}", args=arguments)).content.decode()
            assert "notebook" in shown and secret not in shown and key.prefix in shown
        rotated = client.post(reverse("apikeys:rotate", args=[key.pk]), {"grace": "3600"}).content.decode()
        assert "slk_" in rotated and secret not in rotated and "good until" in rotated
        client.post(reverse("apikeys:key", args=[key.pk]), {"scope": "user"})
        key.refresh_from_db()
        assert key.scope == "user"
        client.post(reverse("apikeys:revoke", args=[key.pk]))
        shown = client.get(reverse("apikeys:key", args=[key.pk])).content.decode()
        assert "Revoked" in shown and "Revoke this key" not in shown

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"name": ""}, "This field is required"),
            ({"name": "x" * 121}, "at most 120"),
            ({"organization": 999_999}, "Select a valid choice"),
            ({"expires": "tomorrow"}, "Select a valid choice"),
            ({"scope": "deployments", "deployments": []}, "at least one deployment"),
            ({"scope": "deployments", "deployments": ["9" * 30]}, "Select a valid choice"),
            ({"name": "nul\0"}, "Null characters"),
        ],
    )
    def test_bad_input_names_its_field_and_loses_nothing(self, client, people, deployment, changes, message):
        client.force_login(people.member)
        data = {"name": "kept name", "organization": people.ours.pk, "expires": "", "scope": "user"} | changes
        answer = client.post(reverse("apikeys:new"), data)
        page = answer.content.decode()
        assert answer.status_code == 422 and message in page and not ApiKey.objects.exists()
        assert "name" in changes or "kept name" in page

    def test_keys_of_others_are_not_there(self, client, people, deployment):
        key, _ = services.create_key(people.member, people.ours, "notebook")
        client.force_login(people.stranger)
        assert b"notebook" not in client.get(reverse("apikeys:all")).content
        assert client.get(reverse("apikeys:key", args=[key.pk])).status_code == 404
        for name in ("rotate", "revoke"):
            assert client.post(reverse(f"apikeys:{name}", args=[key.pk])).status_code == 404
        client.force_login(people.admin)
        assert b"notebook" in client.get(reverse("apikeys:all")).content
        client.post(reverse("apikeys:rotate", args=[key.pk]), {"grace": "0"})
        key.refresh_from_db()
        assert key.previous_digest is None, "a manager must not get to know a user's secret"
        client.post(reverse("apikeys:revoke", args=[key.pk]))
        key.refresh_from_db()
        assert key.state == "revoked"

    def test_access_and_sharing_are_set_in_the_settings(self, client, people, deployment):
        client.force_login(people.admin)
        url = reverse("deployments:access", args=["acme", "chat"])
        client.post(url, {"access": "key_only", "sharing": "specific", "shared_with": [people.theirs.pk]})
        deployment.refresh_from_db()
        assert (deployment.access, list(deployment.shared_with.all())) == ("key_only", [people.theirs])
        refused = client.post(url, {"access": "public", "sharing": "specific"})
        page = refused.content.decode()
        assert refused.status_code == 422 and "Choose at least one other organization" in page
        assert '<option value="public" selected' in page, "what was chosen is kept"
        assert client.post(url, {"access": "secret", "sharing": "all"}).status_code == 422
        client.force_login(people.member)
        assert client.post(url, {"access": "public", "sharing": "none"}).status_code == 404

    def test_a_long_list_is_read_page_by_page_with_a_fixed_number_of_queries(self, client, people, django_assert_max_num_queries):  # fmt: skip
        keys = [
            ApiKey(user=people.member, organization=people.ours, name=f"key {number}", digest=secret_token.digest_of(str(number)), prefix="slk_x")
            for number in range(120)
        ]  # fmt: skip
        ApiKey.objects.bulk_create(keys)
        sign_in(client, people.operator)
        seen, url = 0, reverse("apikeys:all")
        while url:
            with django_assert_max_num_queries(8):
                page = client.get(url).content.decode()
            seen += page.count('data-label="State"')
            older = re.search(r'href="(\?before=\d+)"', page)
            url = reverse("apikeys:all") + older[1] if older else None
        assert seen == 120
