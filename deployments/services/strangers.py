"""What people decide about strangers, and about who is in charge of a cluster."""

from typing import Any

import orjson
from django.conf import settings
from django.utils import timezone

from accounts import audit
from accounts.models import Organization
from accounts.permissions import Actor, may_manage_clusters
from common.database_lock import hold, try_lock
from common.encryption import Cipher
from common.service_error import ForbiddenError, ServiceError
from deployments import lifecycle
from deployments.drivers import driver_of
from deployments.models import Cluster, Deployment, DesiredState, Endpoint, Model, Status, Stranger, Version
from deployments.services import catalog
from deployments.services.change import change
from deployments.services.organization_namespaces import lock_of
from deployments.services.versions import MAX_REPLICAS, specification_errors
from runtimes.driver import DriverError
from runtimes.specification import Specification

_NOT_DESCRIBED = "Nothing says what it serves: it was started by an earlier release, or by something else. It can be removed, or left."


def take_charge(cluster: Cluster, *, actor: Actor) -> None:
    """Have this Slipway act in the cluster, whoever is in charge now; that one steps back when it sees it."""
    _check(actor)
    with change(reconcile_cluster=cluster.pk):
        Cluster.objects.filter(pk=cluster.pk).update(takes_charge=True)
        audit.record(actor=actor, action="take_charge", thing=cluster)


def remove(stranger: Stranger, *, actor: Actor) -> None:
    """End it, in order, and what goes with it."""
    _check(actor)
    cluster = stranger.cluster
    _check_charge(cluster)
    _ask(lambda: driver_of(cluster).remove_stranger(stranger.name))
    with change(reconcile_cluster=cluster.pk):
        audit.record(actor=actor, action="remove_stranger", thing=cluster, changes={"name": [stranger.name, None]})


def adopt(stranger: Stranger, *, actor: Actor) -> Version:
    """Make a version of it that is wanted; its instances go on as they are."""
    _check(actor)
    # The cluster is asked in between, so no transaction can keep two people apart.
    with try_lock(f"adopt.{stranger.cluster_id}") as held:
        if not held:
            raise ServiceError("Something is being adopted here at this moment. Try again.", code="conflict")
        if not Stranger.objects.filter(pk=stranger.pk).exists():
            raise ServiceError("It was adopted or removed meanwhile.", code="conflict")
        return _adopt(stranger, actor)


def _adopt(stranger: Stranger, actor: Actor) -> Version:
    cluster = stranger.cluster
    _check_charge(cluster)
    told = _told(stranger)
    deployment = _deployment(told, cluster, actor)
    wanted = Version.objects.filter(deployment=deployment, desired_state=DesiredState.RUNNING).first()
    if wanted is not None:
        raise ServiceError(
            f"Version {wanted.number} of {deployment.api_id} is wanted. Stop it, then adopt this one.", code="conflict"
        )
    known = Version.objects.filter(key=stranger.version_key).first()
    if known is not None and known.deployment_id != deployment.pk:
        raise ServiceError(
            f"It says that it is {known}, which runs elsewhere. It can only be removed.", code="conflict"
        )
    if stranger.generation < 1 or not stranger.version_key or not 1 <= stranger.replicas <= MAX_REPLICAS:
        raise ServiceError(_NOT_DESCRIBED, code="not_described")
    driver = driver_of(cluster)
    namespace, organization = stranger.name.rpartition("/")[0], deployment.organization.name
    if namespace not in ("", driver.namespace_of(organization)):
        raise ServiceError(
            f"It runs in the namespace {namespace}, which is not {organization}'s. It can only be removed.",
            code="conflict",
        )
    values = _ask(lambda: driver.secret_values(stranger.name))
    # First there, then here: when this is cut off it is listed again, as ours but unknown.
    _ask(lambda: driver.adopt(stranger.name))
    with change(reconcile_cluster=cluster.pk):
        # Who changes the namespaces of the cluster sees it either as a stranger or as ours.
        hold(lock_of(cluster.pk), shared=True)
        version = known or _make(deployment, stranger, told, values, actor)
        now = timezone.now()
        Version.objects.filter(pk=version.pk).update(
            desired_state=DesiredState.RUNNING,
            status=Status.PREPARING,
            status_since=now,
            cause_json=None,
            unready_since=None,
            start_again_at=None,
            failed_starts=0,
            generation=stranger.generation,
            replicas=stranger.replicas,
            changed_at=now,
            start_requested_at=now,
        )
        lifecycle.record_event(version, "adopted", f"Version {version.number} was adopted as it ran.", actor=actor)
        audit.record(actor=actor, action="adopt", thing=version, organization_id=deployment.organization_id)
        Stranger.objects.filter(pk=stranger.pk).delete()
    version.refresh_from_db()
    return version


def _make(
    deployment: Deployment, stranger: Stranger, told: dict[str, Any], values: dict[str, str], actor: Actor
) -> Version:
    number = told["number"] if isinstance(told.get("number"), int) and 0 < told["number"] < 1_000_000 else 0
    if not number or Version.objects.filter(deployment=deployment, number=number).exists():
        number = deployment.last_number + 1
    Deployment.objects.filter(pk=deployment.pk).update(last_number=max(number, deployment.last_number))
    now = timezone.now()
    return Version.objects.create(
        deployment=deployment,
        number=number,
        key=stranger.version_key,
        specification_json=told["specification"],
        encrypted_secrets=Cipher(settings.INSTALLATION_KEYS.encryption).encrypt(values),
        replicas=stranger.replicas,
        desired_state=DesiredState.STOPPED,
        created_by=actor,
        start_requested_at=now,
        changed_at=now,
        status_since=now,
    )


def told_by(stranger: Stranger) -> dict[str, Any] | None:
    """What it says of itself, for people; None where that is not enough to adopt it."""
    try:
        told = _told(stranger)
    except ServiceError:
        return None
    known = told.get("known")
    if known is None:
        return told
    deployment = known.deployment
    return {"organization": deployment.organization.name, "deployment": deployment.name, "number": known.number}


def _told(stranger: Stranger) -> dict[str, Any]:
    """The description, checked: anybody in the namespace may have written it."""
    known = Version.objects.filter(key=stranger.version_key).select_related("deployment__organization").first()
    if known is not None:
        return {"known": known}
    try:
        told = orjson.loads(stranger.description or b"null")
        names = [told[name] for name in ("organization", "deployment", "endpoint")]
        model = told["model"]
        names += [model["name"], model["source"]]
        if not all(isinstance(name, str) and name for name in names) or not isinstance(model.get("uri"), str):
            raise ServiceError(_NOT_DESCRIBED, code="not_described")
        specification = Specification.from_json(told["specification"])
        if specification.served_model_name != f"{told['organization']}/{told['deployment']}":
            # Its files and its claims would be those of another organization.
            raise ServiceError(_NOT_DESCRIBED, code="not_described")
        problems = specification_errors(specification, stranger.cluster.driver)
    except (orjson.JSONDecodeError, TypeError, KeyError, ValueError, AttributeError):
        raise ServiceError(_NOT_DESCRIBED, code="not_described") from None
    if problems:
        raise ServiceError(f"What it says of itself can't be: {next(iter(problems.values()))}", code="not_described")
    return dict(told)


def _deployment(told: dict[str, Any], cluster: Cluster, actor: Actor) -> Deployment:
    """The deployment that it belongs to, made where it is missing, with its endpoint and model."""
    if "known" in told:
        deployment: Deployment = told["known"].deployment
        return deployment
    organization = Organization.objects.filter(name=told["organization"]).first()
    if organization is None:
        raise ServiceError(
            f"It belongs to the organization “{told['organization']}”, which isn't here. Make it, then adopt again.",
            code="conflict",
        )
    found = Deployment.objects.filter(organization=organization, name=told["deployment"]).first()
    if found is not None:
        if found.endpoint.cluster_id != cluster.pk:
            raise ServiceError(f"{found.api_id} runs on the cluster {found.endpoint.cluster}.", code="conflict")
        return found
    endpoint = Endpoint.objects.filter(name=told["endpoint"]).first()
    if endpoint is None:
        endpoint = catalog.save_endpoint(
            Endpoint(organization=organization, cluster=cluster, name=told["endpoint"]), actor=actor
        )
    elif endpoint.cluster_id != cluster.pk or endpoint.organization_id != organization.pk:
        raise ServiceError(
            f"Its endpoint /{endpoint.name} is one of {endpoint.organization} on {endpoint.cluster} here.",
            code="conflict",
        )
    asked = told["model"]
    model = Model.objects.filter(organization=organization, name=asked["name"]).first()
    if model is None:
        made = Model(organization=organization, name=asked["name"], source=asked["source"], uri=asked["uri"])
        model = catalog.save_model(made, actor=actor)
    environment = told.get("environment")
    # Who may call it is told here, not by what anybody in the namespace may have written.
    made_deployment = Deployment(
        organization=organization, model=model, endpoint=endpoint, name=told["deployment"],
        access=Deployment.Access.KEY_ONLY,
    )  # fmt: skip
    if environment in Deployment.Environment.values:
        made_deployment.environment = environment
    with change():
        made_deployment.save(force_insert=True)
        audit.record(actor=actor, action="create", thing=made_deployment, organization_id=organization.pk)
    return made_deployment


def _check(actor: Actor) -> None:
    if not may_manage_clusters(actor):
        raise ForbiddenError("Clusters are managed by operators.")


def _check_charge(cluster: Cluster) -> None:
    if not cluster.is_ours:
        raise ServiceError("Another Slipway is in charge of this cluster. Take charge first.", code="not_in_charge")


def _ask(act: Any) -> Any:
    try:
        return act()
    except DriverError as error:
        raise ServiceError(f"The cluster refused: {error}", code="refused") from None
