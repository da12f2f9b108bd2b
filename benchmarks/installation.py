"""A database with deployments whose instances are the benchmark's own servers, and gateways that read it."""

import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Starts PostgreSQL and Valkey; before Django reads its settings.
import tests.embedded_servers

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashboard.settings")
import django

django.setup()

import httpx
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from accounts.models import Member, Organization, User
from accounts.services import create_organization
from apikeys.models import ApiKey
from apikeys.services import create_key, revoke_key
from benchmarks import peers
from common import secret_token
from deployments.models import Cluster, Deployment, DirectoryVersion, Endpoint, Instance, Model, Status, Version
from deployments.selectors import gateways_behind
from deployments.services.deployments import create_deployment
from deployments.services.limits import Limits, set_limits
from runtimes.observation import READY
from runtimes.specification import Specification

assert tests.embedded_servers


class Installation:
    """An organization `bench` with one endpoint `e`; deployments are made as if they had become ready."""

    def __init__(self) -> None:
        call_command("migrate", verbosity=0)
        self.organization: Organization = create_organization("bench", "Benchmarks")
        self.operator = User.objects.create(username="bench", is_operator=True)
        cluster = Cluster.objects.create(name="bench")
        self._endpoint = Endpoint.objects.create(organization=self.organization, cluster=cluster, name="e")
        self._model = Model.objects.create(organization=self.organization, name="m")

    def serve(self, name: str, *ports: int) -> str:
        """A running deployment with an instance at each of `ports`; its path at a gateway."""
        specification = Specification("simulator", f"bench/{name}", cpu=1, memory=256 << 20)
        deployment = Deployment(organization=self.organization, endpoint=self._endpoint, model=self._model, name=name)
        version = create_deployment(deployment, specification, len(ports), actor=self.operator).versions.get()
        for port in ports:
            Instance.objects.create(
                version=version, uid=uuid.uuid4().hex, name=f"{name}-{port}", generation=version.generation,
                phase=READY, address=f"127.0.0.1:{port}", started_at=timezone.now(), ready_at=timezone.now(),
            )  # fmt: skip
        version.status = Status.RUNNING
        version.save(update_fields=["status"])
        DirectoryVersion.bump()
        return f"/e/{name}"

    def deployment(self, name: str) -> Deployment:
        return Deployment.objects.select_related("organization").get(name=name)

    def many(self, number: int) -> list[int]:
        """So many running deployments of one version and instance; their ids. Made as if by many clicks long ago."""
        cluster = self._endpoint.cluster
        endpoints = Endpoint.objects.bulk_create(
            [Endpoint(organization=self.organization, cluster=cluster, name=f"f{index}") for index in range(number)]
        )
        made = Deployment.objects.bulk_create(
            [
                Deployment(organization=self.organization, endpoint=item, model=self._model, name=f"fleet-{index}")
                for index, item in enumerate(endpoints)
            ]
        )
        specification, now = (
            Specification("simulator", "bench/fleet", cpu=1, memory=256 << 20).to_json(),
            timezone.now(),
        )
        versions = Version.objects.bulk_create([
            Version(deployment=item, number=1, specification_json=specification, replicas=1, status=Status.RUNNING,
                    start_requested_at=now, changed_at=now, status_since=now)
            for item in made
        ])  # fmt: skip
        Instance.objects.bulk_create([
            Instance(version=item, uid=uuid.uuid4().hex, name=f"fleet-{item.pk}", generation=1, phase=READY, started_at=now, ready_at=now)
            for item in versions
        ])  # fmt: skip
        return [item.pk for item in made]

    def want_keys(self, name: str) -> None:
        Deployment.objects.filter(name=name).update(access=Deployment.Access.KEY_ONLY)
        DirectoryVersion.bump()

    def limit(self, name: str, limits: Limits) -> None:
        set_limits(Deployment.objects.get(name=name), limits, actor=self.operator)

    def await_acknowledged(self, within_s: float = 20) -> None:
        """Until all gateways route by what has been changed."""
        deadline = time.monotonic() + within_s
        while gateways_behind(DirectoryVersion.objects.get(pk=1).v):
            if time.monotonic() > deadline:
                raise RuntimeError("a gateway has not applied the change")
            time.sleep(0.05)

    def new_key(self) -> tuple[ApiKey, str]:
        return create_key(self.operator, self.organization, "bench")

    def revoke(self, key: ApiKey) -> None:
        revoke_key(key, actor=self.operator)

    def fill_keys(self, keys: int, organizations: int) -> None:
        """So many keys of a tenth as many users, spread over organizations; made as if by many clicks long ago."""
        made = Organization.objects.bulk_create(
            [Organization(name=f"tenant-{number}") for number in range(organizations)]
        )
        people = User.objects.bulk_create([User(username=f"user-{number}") for number in range(keys // 10)])
        Member.objects.bulk_create(
            [Member(user=user, organization=made[number % len(made)]) for number, user in enumerate(people)]
        )
        ApiKey.objects.bulk_create(
            [
                ApiKey(
                    user=(user := people[number % len(people)]),
                    organization=made[number % len(people) % len(made)],
                    name=f"key {number}",
                    digest=secret_token.digest_of(f"{user.pk}-{number}"),
                    prefix="slk_bench",
                )
                for number in range(keys)
            ],
            batch_size=5000,
        )
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
        DirectoryVersion.bump()


@contextmanager
def gateway(name: str = "bench", *, port: int | None = None) -> Iterator[tuple[int, int]]:
    """A gateway as `manage.py up` starts it; (port, pid). Several may share `port`."""
    own = port or peers.free_port()
    command = [sys.executable, "-m", "gateway", "--port", str(own), "--name", name]
    process = subprocess.Popen(command, stderr=(Path(tempfile.gettempdir()) / f"slipway-bench-{name}.log").open("wb"))
    try:
        peers.await_port(own)
        yield own, process.pid
    finally:
        process.terminate()
        process.wait()


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def until_served(port: int, path: str, headers: dict[str, str] | None = None, within_s: float = 60) -> None:
    """Wait until the gateway at `port` has read the directory."""
    deadline = time.monotonic() + within_s
    with httpx.Client(headers=headers, trust_env=False) as client:
        while client.get(f"http://127.0.0.1:{port}{path}").status_code != 200:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the gateway doesn't serve {path}")
            time.sleep(0.005)
