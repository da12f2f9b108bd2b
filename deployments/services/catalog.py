"""Writers of what deployments refer to: models, endpoints, clusters."""

from collections.abc import Collection
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError

from accounts import audit
from accounts.models import Organization
from accounts.permissions import Actor, may_manage, may_manage_clusters, may_use_driver
from common.broadcast import publish_on_commit
from common.database_lock import hold
from common.encryption import Cipher
from common.naming import RESERVED_ENDPOINT_NAMES, name_error
from common.service_error import ForbiddenError, ServiceError
from deployments.drivers import driver_of, kubernetes_driver
from deployments.models import Cluster, Endpoint, Model
from deployments.services import organization_namespaces, origins, tenancy
from deployments.services.change import change, refusal
from runtimes.allowances import pattern_error
from runtimes.driver import DriverError
from runtimes.kubernetes import kubeconfig as kubeconfigs


def save_model(
    model: Model, *, actor: Actor, credential: str | None = None, only: Collection[str] | None = None
) -> Model:
    """Create or update. `credential` of None keeps the stored one, "" removes it; fields that are not among `only` stay as
    they are, whoever has changed them meanwhile."""
    if not may_manage(actor, model.organization_id):
        raise ForbiddenError("You may not manage models of this organization.", field="organization")
    if credential is not None:
        if credential and not kubeconfigs.SENDABLE.fullmatch(credential):
            message = "A token is one line of letters, digits and signs of ASCII. Copy it again, without line ends."
            raise ServiceError(message, field="credential")
        model.encrypted_credentials = Cipher(settings.INSTALLATION_KEYS.encryption).encrypt(
            {"token": credential} if credential else {}
        )
    return _save(
        model, actor, model.organization_id, duplicate="This organization already has a model of this name.", only=only,
        secret=None if credential is None else "encrypted_credentials",
    )  # fmt: skip


def save_endpoint(endpoint: Endpoint, *, actor: Actor, only: Collection[str] | None = None) -> Endpoint:
    """As `save_model`."""
    if not may_manage(actor, endpoint.organization_id) or not may_use_driver(actor, endpoint.cluster.driver):
        raise ForbiddenError("You may not expose models on this cluster for this organization.", field="cluster")
    tenancy.check_organization(endpoint.organization, endpoint.cluster)
    problem = name_error(endpoint.name)
    if endpoint.name in RESERVED_ENDPOINT_NAMES:
        problem = f"“{endpoint.name}” is one of the gateway's own paths. Choose another name."
    if problem:
        raise ServiceError(problem, field="name")
    endpoint.origins = origins.checked(endpoint.origins)
    if endpoint.pk:
        before = Endpoint.objects.filter(pk=endpoint.pk).first()
        in_use = before is not None and endpoint.deployments.exists()
        if before and in_use and before.cluster_id != endpoint.cluster_id:
            raise ServiceError(
                "This endpoint has deployments; they run on its cluster. Make another endpoint instead.",
                field="cluster",
            )
        if before and in_use and before.name != endpoint.name:
            raise ServiceError(
                f"Callers reach this endpoint's deployments at /{before.name}/…; that would end. Make another endpoint instead.",
                field="name",
            )
    return _save(
        endpoint,
        actor,
        endpoint.organization_id,
        duplicate="An endpoint of this name exists; names are unique over all organizations.",
        only=only,
    )


def save_cluster(
    cluster: Cluster,
    *,
    actor: Actor,
    kubeconfig: str | None = None,
    organizations: Collection[Organization] | None = None,
    only: Collection[str] | None = None,
) -> Cluster:
    """As `save_model`. `kubeconfig` of None keeps the stored one, "" means the service account of Slipway's own pod.

    `organizations` may use it where it isn't for all; None keeps those that there are.
    """
    if not may_manage_clusters(actor):
        raise ForbiddenError("Clusters are managed by operators.")
    problem = name_error(cluster.name)
    if problem:
        raise ServiceError(problem, field="name")
    if cluster.driver == Cluster.Driver.KUBERNETES:
        problem = name_error(cluster.namespace)
        if problem:
            raise ServiceError(
                "The name of a namespace: lower-case letters, digits and hyphens, at most 63."
                if cluster.namespace
                else "A namespace is needed.",
                field="namespace",
            )
        if kubeconfig is not None:
            cluster.encrypted_kubeconfig = _sealed_kubeconfig(kubeconfig)
        organization_namespaces.check(cluster)
        if cluster.is_proxied and not cluster.encrypted_kubeconfig:
            raise ServiceError(
                "Through the API server gateways need a kubeconfig. Inside the cluster they reach pods by their addresses.",
                field="reach",
            )
        if cluster.namespace_template and cluster.encrypted_kubeconfig and not cluster.callers:
            raise ServiceError(
                "Name who may call instances: the gateways’ networks or namespaces. 0.0.0.0/0 lets in anybody.",
                field="callers",
            )
    elif kubeconfig or cluster.namespace or cluster.namespace_template:
        raise ServiceError("This machine needs neither kubeconfig nor namespace.", field="driver")
    elif cluster.is_proxied:
        raise ServiceError("Instances on this machine are reached by their addresses.", field="reach")
    if cluster.pk and cluster.endpoints.filter(deployments__isnull=False).exists():
        before = Cluster.objects.filter(pk=cluster.pk).first()
        if before and before.namespace != cluster.namespace:
            raise ServiceError(
                "Deployments run in this namespace. Add another cluster for another namespace.", field="namespace"
            )
    if cluster.driver == Cluster.Driver.KUBERNETES:
        _check_namespace(cluster)
        cluster.identity = _identity(cluster)
    for kind, patterns in cluster.allowances.items():
        if problem := pattern_error(patterns):
            raise ServiceError(problem, field=kind)
    secret = None if kubeconfig is None else "encrypted_kubeconfig"
    with transaction.atomic():
        # Once more, now that nothing can be started meanwhile: what was asked of the cluster took its time.
        hold(organization_namespaces.lock_of(cluster.pk or 0))
        if only is None or "namespace_template" in only:
            organization_namespaces.check_nothing_is_left_behind(cluster)
        saved: Cluster = _save(
            cluster,
            actor,
            None,
            duplicate="A cluster of this name exists.",
            only=only,
            secret=secret,
            found=("identity",),
        )
        if organizations is not None:
            _set_organizations(saved, organizations, actor)
    return saved


def _set_organizations(cluster: Cluster, organizations: Collection[Organization], actor: Actor) -> None:
    before = sorted(cluster.organizations.values_list("name", flat=True))
    after = sorted(item.name for item in organizations)
    if before != after:
        cluster.organizations.set(organizations)
        audit.record(actor=actor, action="update", thing=cluster, changes={"organizations": [before, after]})


def _check_namespace(cluster: Cluster) -> None:
    try:
        is_there = kubernetes_driver(cluster).has_namespace()
    except DriverError:
        # It doesn't answer now, or may not be asked.
        return
    if not is_there:
        raise ServiceError(
            f"The cluster has no namespace “{cluster.namespace}”. Create it there first, or name another one.",
            field="namespace",
        )


def _identity(cluster: Cluster) -> str:
    """The cluster's own identity; what is known of it where it doesn't tell. Refused where it is entered already."""
    try:
        found = driver_of(cluster).identity()
    except DriverError:
        # Not now: the reconciler looks again when it answers.
        found = ""
    known = Cluster.objects.filter(pk=cluster.pk).values_list("identity", flat=True).first() or ""
    if not found:
        _check_address(cluster)
        return known
    twin = Cluster.objects.exclude(pk=cluster.pk).filter(identity=found, namespace=cluster.namespace).first()
    if twin is not None:
        raise ServiceError(
            f"This cluster and namespace are already entered, as “{twin.name}”. Use that entry, or another namespace.",
            code="duplicate",
            field="namespace",
        )
    if known and found != known and cluster.endpoints.filter(deployments__isnull=False).exists():
        raise ServiceError(
            "This leads to another cluster than the one where the deployments run. Add it as a cluster of its own.",
            field="kubeconfig",
        )
    return found


def _check_address(cluster: Cluster) -> None:
    """Where the cluster's own identity can't be read, the address that leads to it stands in for it."""
    try:
        address = driver_of(cluster).address()
        others = Cluster.objects.exclude(pk=cluster.pk).filter(
            driver=Cluster.Driver.KUBERNETES, namespace=cluster.namespace
        )
        twins = [other for other in others if driver_of(other).address() == address]
    except DriverError:
        return
    if twins:
        raise ServiceError(
            f"This address and namespace are already entered, as “{twins[0].name}”. Use that entry, or another namespace.",
            code="duplicate",
            field="namespace",
        )


def _sealed_kubeconfig(text: str) -> str:
    """Encrypted; refused when it can't be used, before it is stored."""
    if not text.strip():
        return ""
    try:
        kubeconfigs.read(text)
    except kubeconfigs.KubeconfigError as error:
        raise ServiceError(str(error), field="kubeconfig") from None
    return Cipher(settings.INSTALLATION_KEYS.encryption).encrypt({"kubeconfig": text})


def delete(thing: Model | Endpoint | Cluster, *, actor: Actor) -> None:
    """Delete what nothing refers to any more."""
    organization_id = getattr(thing, "organization_id", None)
    allowed = may_manage_clusters(actor) if organization_id is None else may_manage(actor, organization_id)
    if not allowed:
        raise ForbiddenError("You may not delete this.")
    kind = thing._meta.verbose_name
    try:
        with change():
            audit.record(actor=actor, action="delete", thing=thing, organization_id=organization_id)
            thing.delete()
    except ProtectedError as error:
        names = ", ".join(sorted(str(item) for item in error.protected_objects)[:5])
        raise ServiceError(f"This {kind} is in use by {names}. Delete that first.", code="in_use") from None


def _save(
    thing: Any,
    actor: Actor,
    organization_id: int | None,
    *,
    duplicate: str,
    only: Collection[str] | None,
    secret: str | None = None,
    found: Collection[str] = (),
) -> Any:
    """`found`: fields that nobody has given, but that were found out for this change."""
    created = thing.pk is None
    # What the reconciler writes is left to it, and what nobody has given is left to others: `thing` was read before now.
    fields = [
        field
        for field in thing._meta.concrete_fields
        if not field.primary_key
        and not getattr(field, "auto_now_add", False)
        and (field.name in found or field.name not in getattr(thing, "FOUND", ()))
        and (
            field.name == secret
            if field.name.startswith("encrypted")
            else only is None or field.name in only or field.name in found
        )
    ]
    try:
        with transaction.atomic(), change():
            before = (
                None
                if created
                else type(thing)._default_manager.select_for_update(no_key=True).filter(pk=thing.pk).first()
            )
            if before is None and not created:
                raise ServiceError("It was deleted meanwhile.", code="conflict")
            changes = {
                field.name: [getattr(before, field.attname, None), getattr(thing, field.attname)]
                for field in fields
                if field.name != secret and getattr(before, field.attname, None) != getattr(thing, field.attname)
            }
            if secret is not None and not created:
                changes[secret.removeprefix("encrypted_")] = ["", "replaced"]
            if created:
                thing.save(force_insert=True)
            else:
                thing.save(update_fields=[field.attname for field in fields])
                thing.refresh_from_db()
            audit.record(
                actor=actor,
                action="create" if created else "update",
                thing=thing,
                organization_id=organization_id,
                changes=changes,
            )
            publish_on_commit(thing._meta.model_name, thing.pk)
    except IntegrityError as error:
        raise refusal(error, duplicate) from None
    return thing
