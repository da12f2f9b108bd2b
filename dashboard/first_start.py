"""What a new installation begins with: an operator, and a demo to look at. Every step may be repeated."""

import secrets

from django.db import transaction

from accounts.models import Member, Organization, User
from accounts.services import add_member, create_operator, create_organization
from deployments.models import Cluster, Deployment, Endpoint, Model
from deployments.services import catalog
from deployments.services.deployments import create_deployment
from runtimes.specification import Specification

OPERATOR = "admin"


def ensure_operator() -> str | None:
    """Create the first operator; its password, which is shown once, or None when there is one already."""
    if User.objects.filter(is_operator=True).exists():
        return None
    password = secrets.token_urlsafe(12)
    create_operator(OPERATOR, password)
    return password


@transaction.atomic
def ensure_demo(access: str) -> None:
    """A demo organization with everything in it, made only when there is no organization at all. `access`: who may call it."""
    if not Cluster.objects.exists():
        catalog.save_cluster(
            Cluster(name="this-machine", description="Processes on the machine that runs Slipway."), actor=None
        )
    if Organization.objects.exists():
        return
    organization = create_organization("demo", "Demo organization")
    for operator in User.objects.filter(is_operator=True):
        add_member(organization, operator, Member.Role.ADMIN)
    model = catalog.save_model(
        Model(
            organization=organization,
            name="Simulated chat model",
            description="Made-up answers, to try everything without a GPU.",
        ),
        actor=None,
    )
    endpoint = catalog.save_endpoint(
        Endpoint(
            organization=organization,
            name="demo",
            cluster=Cluster.objects.first(),
            description="Where the demo is exposed.",
        ),
        actor=None,
    )
    deployment = Deployment(
        organization=organization, model=model, endpoint=endpoint, name="chat", description="The demo deployment.",
        access=access,
    )  # fmt: skip
    specification = Specification(
        engine="simulator", served_model_name="demo/chat", cpu=0.5, memory=256 << 20, context_length=4096
    )
    create_deployment(deployment, specification, 1, actor=None)
