"""Data of earlier builds survives an upgrade, and keeps the names under which things run."""

import hashlib
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone


def migrated(target: str):
    executor = MigrationExecutor(connection)
    executor.migrate([("deployments", target)])
    return MigrationExecutor(connection).loader.project_state([("deployments", target)]).apps


@pytest.fixture
def before_identities(transactional_db):
    yield migrated("0009_version_numbers")
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())


def test_what_runs_keeps_its_names(before_identities, people_rows):
    cluster, version, instance = people_rows(before_identities, driver="kubernetes")
    apps = migrated("0011_identity")
    assert apps.get_model("deployments", "Version").objects.get(pk=version.pk).key == f"v{version.pk}"
    # How earlier builds named an installation: pods carry it, and their Deployment selects them by it.
    name = hashlib.sha256(f"installation:{settings.SECRET_KEY}".encode()).hexdigest()[:16]
    assert apps.get_model("deployments", "Installation").objects.get(id=1).uid == name
    kept = apps.get_model("deployments", "Cluster").objects.get(pk=cluster.pk)
    assert kept.uid and kept.charge == "ours" and not kept.identity
    ended = apps.get_model("deployments", "Instance").objects.get(pk=instance.pk)
    assert (ended.ends, ended.crashes) == (7, 0), "crashes of a whole life are none in a row"


def test_without_kubernetes_the_name_owes_nothing_to_a_key(before_identities, people_rows):
    people_rows(before_identities, driver="local")
    apps = migrated("0011_identity")
    name = hashlib.sha256(f"installation:{settings.SECRET_KEY}".encode()).hexdigest()[:16]
    assert apps.get_model("deployments", "Installation").objects.get(id=1).uid not in ("", name)


@pytest.fixture
def people_rows():
    def make(apps, *, driver: str):
        now = timezone.now()
        model = apps.get_model
        organization = model("accounts", "Organization").objects.create(name="acme", title="Acme")
        cluster = model("deployments", "Cluster").objects.create(name="c", driver=driver, namespace="models")
        endpoint = model("deployments", "Endpoint").objects.create(organization=organization, cluster=cluster, name="e")
        served = model("deployments", "Model").objects.create(organization=organization, name="m")
        deployment = model("deployments", "Deployment").objects.create(
            organization=organization, endpoint=endpoint, model=served, name="d"
        )
        version = model("deployments", "Version").objects.create(
            deployment=deployment, number=1, specification_json={"engine": "simulator", "served_model_name": "x"}, replicas=1,
            status="running", start_requested_at=now, changed_at=now, status_since=now,
        )  # fmt: skip
        instance = model("deployments", "Instance").objects.create(
            version=version, uid="ab" * 16, name="x", generation=1, phase="ready", restarts=7, started_at=now
        )
        return cluster, version, instance

    return make


def test_of_users_that_differ_by_case_the_first_keeps_the_name(transactional_db, caplog):
    def accounts(target: str):
        executor = MigrationExecutor(connection)
        executor.migrate([("accounts", target)])
        return MigrationExecutor(connection).loader.project_state([("accounts", target)]).apps

    apps = accounts("0003_invitation")
    users = apps.get_model("accounts", "User").objects
    now = timezone.now()
    made = [
        users.create(username=name, password=name, date_joined=now + timedelta(days=day))
        for day, name in enumerate(["admin", "Admin", "admin-2", "ADMIN", "ann"])
    ]
    apps = accounts("0004_usernames_without_case")
    names = {user.pk: user.username for user in apps.get_model("accounts", "User").objects.all()}
    assert [names[user.pk] for user in made] == ["admin", "Admin-3", "admin-2", "ADMIN-4", "ann"]
    entries = apps.get_model("accounts", "AuditEntry").objects.filter(object_type="user")
    assert [entry.changes for entry in entries.order_by("pk")] == [
        {"username": ["Admin", "Admin-3"]},
        {"username": ["ADMIN", "ADMIN-4"]},
    ]
    assert "tell the person" in caplog.text
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())
