"""Fixtures for all tests.

people        operator, admin and member of one organization, stranger in another
place         an organization with cluster, model and endpoint
deploy        deploys the simulator through the services
free_port     a port that nobody listens on
"""

import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import Member, User
from accounts.services import add_member, create_organization
from common import partitions
from deployments.models import Cluster, Deployment, DirectoryVersion, Endpoint, Model
from deployments.services import catalog
from deployments.services.deployments import create_deployment
from runtimes.specification import Specification


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def people(db: None) -> SimpleNamespace:
    # Transactional tests empty all tables, the row that a migration made too.
    DirectoryVersion.objects.get_or_create(id=1)
    ours, theirs = create_organization("acme", "Acme"), create_organization("other", "Other")

    def person(name: str, organization: Any = None, role: str = "", **extra: Any) -> User:
        user = User(username=name, **extra)
        user.set_unusable_password()
        user.save()
        if organization:
            add_member(organization, user, role)
        return user

    return SimpleNamespace(
        ours=ours,
        theirs=theirs,
        operator=person("operator", is_operator=True),
        admin=person("admin", ours, Member.Role.ADMIN),
        member=person("member", ours, Member.Role.MEMBER),
        stranger=person("stranger", theirs, Member.Role.ADMIN),
    )


@pytest.fixture
def place(people: SimpleNamespace) -> SimpleNamespace:
    cluster = catalog.save_cluster(Cluster(name="here"), actor=people.operator)
    model = catalog.save_model(Model(organization=people.ours, name="A model"), actor=people.operator)
    endpoint = catalog.save_endpoint(
        Endpoint(organization=people.ours, name="main", cluster=cluster), actor=people.operator
    )
    return SimpleNamespace(cluster=cluster, model=model, endpoint=endpoint)


def sign_in(client: Client, user: User) -> None:
    """With the browser's first request behind it, which notes where one is signed in: for tests that count statements."""
    client.force_login(user)
    client.get(reverse("accounts:tokens"))


def simulator(**settings: Any) -> Specification:
    """A fast simulator."""
    quick = {"time_to_first_token_ms": 5, "inter_token_ms": 1, "load_time_s": 0}
    return Specification(
        "simulator", "acme/chat", cpu=1, memory=256 << 20, context_length=4096, engine_settings=quick | settings
    )


@pytest.fixture
def deploy(people: SimpleNamespace, place: SimpleNamespace) -> Callable[..., Deployment]:
    def make(name: str = "chat", *, replicas: int = 1, specification: Specification | None = None) -> Deployment:
        deployment = Deployment(organization=people.ours, model=place.model, endpoint=place.endpoint, name=name)
        return create_deployment(deployment, specification or simulator(), replicas, actor=people.operator)

    return make


@pytest.fixture(autouse=True)
def _instances_end(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a process behind."""
    yield
    from django.conf import settings

    from deployments.drivers import local_driver

    for path in settings.HOME.instances.glob("[0-9]*"):
        local_driver(int(path.name)).end_all(timeout_s=20)
        for folder in path.glob("*/*"):
            local_driver(int(path.name)).discard(folder.parent.name, folder.name)


@pytest.fixture
def day_partitions(db: None) -> None:
    from datetime import UTC, datetime

    for table in ("deployments_log_chunk", "monitoring_usage_minute"):
        partitions.ensure(table, today=datetime.now(UTC).date())
