"""New keys: what is stored is brought up to them, nobody is signed out, and former keys go when nothing needs them."""

import io
import os
import re
import zlib
from dataclasses import replace

import psycopg
import pytest
from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.db import connection, models
from django.test import Client

from accounts.passwords import make_link
from async_inference.models import AsyncPayload
from common.encryption import Cipher
from common.installation_keys import FixedKeys, KeysFile
from common.service_error import ServiceError
from dashboard import key_rotation, session_keys
from dashboard.own_keys import save
from deployments.models import Cluster, DirectoryVersion, Model, Version
from tests.conftest import simulator

pytestmark = pytest.mark.django_db


@pytest.fixture
def keys(settings, tmp_path):
    """A file of keys as processes have it, which they look at at each use."""
    save(tmp_path / "keys.json", FixedKeys.of("first"))
    settings.INSTALLATION_KEYS = file = KeysFile(tmp_path / "keys.json", _jumping())
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "first", []
    return file


def _jumping():
    moments = iter(range(10**9))
    return lambda: float(next(moments))


def rotate(keys: KeysFile) -> key_rotation.Report:
    return key_rotation.rotate(keys, sleep=lambda seconds: None)


def test_every_encrypted_column_is_listed():
    listed = {(model, column) for model, column in key_rotation.ENCRYPTED}
    found = {
        (model, item.name)
        for model in apps.get_models()
        for item in model._meta.get_fields()
        if isinstance(item, models.TextField) and item.name.startswith("encrypted_")
    }
    assert found <= listed and (AsyncPayload, "headers") in listed


def test_stored_secrets_go_over_to_the_new_key(keys, deploy, place):
    version = deploy(specification=replace(simulator(), secret_environment={"TOKEN": "planted"})).versions.get()
    Model.objects.update(encrypted_credentials=Cipher(["first"]).encrypt({"token": "c"}))
    Cluster.objects.update(encrypted_kubeconfig=Cipher(["lost"]).encrypt({"kubeconfig": "k"}))
    before = DirectoryVersion.objects.get(pk=1).v
    report = rotate(keys)
    assert report.secrets == 2 and report.unreadable == [f"cluster {place.cluster.pk}"]
    new = keys.encryption[0]
    stored = Version.objects.get(pk=version.pk).encrypted_secrets
    assert Cipher([new]).decrypt(stored) == {"TOKEN": "planted"}
    assert Cipher([new]).decrypt(Model.objects.get().encrypted_credentials) == {"token": "c"}
    assert DirectoryVersion.objects.get(pk=1).v > before, "gateways read kubeconfigs anew"
    assert rotate(keys).secrets == 2
    assert len(keys.encryption) == 3
    key_rotation.drop_former(keys)
    assert len(keys.encryption) == len(keys.sessions) == 1
    assert Version.objects.get(pk=version.pk).specification_with_secrets().secret_environment == {"TOKEN": "planted"}


def test_many_rows_are_brought_up_in_portions(keys, people, monkeypatch):
    monkeypatch.setattr(key_rotation, "AT_ONCE", 2)
    for number in range(5):
        Model.objects.create(
            organization=people.ours, name=f"m{number}", encrypted_credentials=Cipher(["first"]).encrypt({"token": "c"})
        )
    assert rotate(keys).secrets == 5


def test_what_a_person_changes_meanwhile_stays(keys, place, monkeypatch):
    Model.objects.update(encrypted_credentials=Cipher(["first"]).encrypt({"token": "old"}))
    renew = Cipher.renew

    def and_someone_saves(self: Cipher, token: str) -> str:
        renewed = renew(self, token)
        Model.objects.update(encrypted_credentials=self.encrypt({"token": "newer"}))
        return renewed

    monkeypatch.setattr(Cipher, "renew", and_someone_saves)
    assert rotate(keys).secrets == 0
    assert Model.objects.get().credential_token() == "newer"


def test_nobody_is_signed_out(keys, people):
    client = Client()
    client.force_login(people.member)
    name = client.cookies[django_settings.SESSION_COOKIE_NAME].value
    rotate(keys)
    assert client.get("/account/tokens/").status_code == 200
    assert client.cookies[django_settings.SESSION_COOKIE_NAME].value == name, "a second request may be under way"
    key_rotation.drop_former(keys)
    session_keys.use(keys.sessions)
    assert len(django_settings.SECRET_KEY_FALLBACKS) == 1
    assert client.get("/account/tokens/").status_code == 200
    assert Session.objects.get(pk=name).get_decoded()["_auth_user_id"] == str(people.member.pk)


def test_links_live_until_former_keys_are_dropped(keys, people):
    link = make_link(people.member, actor=people.operator)
    rotate(keys)
    assert "new password" in Client().get(link, follow=True).content.decode()
    key_rotation.drop_former(keys)
    assert "new password" not in re.sub(r"\s+", " ", Client().get(link, follow=True).content.decode())


def test_a_rotation_that_was_cut_off_is_done_again(keys, place):
    Model.objects.update(encrypted_credentials=Cipher(["first"]).encrypt({"token": "c"}))

    class Killed(Exception):
        pass

    for at in (1, 2):
        calls = iter(range(1, 9))

        def killed(seconds: float, at: int = at, calls=calls) -> None:
            if next(calls) == at:
                raise Killed

        with pytest.raises(Killed):
            key_rotation.rotate(keys, sleep=killed)
        assert Model.objects.get().credential_token() == "c"
    rotate(keys)
    key_rotation.drop_former(keys)
    assert Model.objects.get().credential_token() == "c" and len(keys.encryption) == 1


def test_a_file_of_someone_else_is_left_alone(keys, monkeypatch):
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(CommandError, match="belongs to another user"):
        call_command("rotate_keys")
    assert keys.encryption == ("first",)


@pytest.mark.django_db(transaction=True)
def test_two_at_once_don_t_mix(keys, people):
    with psycopg.connect(**connection.get_connection_params(), autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [zlib.crc32(b"rotate-keys")])
        with pytest.raises(ServiceError, match="already"):
            rotate(keys)
    assert keys.encryption == ("first",)


def test_keys_of_the_environment_are_only_brought_up(settings, place):
    settings.INSTALLATION_KEYS = FixedKeys.of("new", "old")
    Model.objects.update(encrypted_credentials=Cipher(["old"]).encrypt({"token": "c"}))
    said = io.StringIO()
    call_command("rotate_keys", stdout=said)
    assert "Encrypted again: 1." in said.getvalue() and "environment" in said.getvalue()
    assert Cipher(["new"]).decrypt(Model.objects.get().encrypted_credentials) == {"token": "c"}
