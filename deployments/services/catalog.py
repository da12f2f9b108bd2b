"""Writers of what deployments refer to: models, endpoints, clusters."""

from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError

from accounts import audit
from accounts.permissions import Actor, may_manage, may_manage_clusters, may_use_driver
from common.broadcast import publish_on_commit
from common.encryption import Cipher
from common.naming import RESERVED_ENDPOINT_NAMES, name_error
from common.service_error import ForbiddenError, ServiceError
from deployments.models import Cluster, Endpoint, Model
from deployments.services.change import change
from runtimes.kubernetes import kubeconfig as kubeconfigs


def save_model(model: Model, *, actor: Actor, credential: str | None = None) -> Model:
    """Create or update. `credential` of None keeps the stored one, "" removes it."""
    if not may_manage(actor, model.organization_id):
        raise ForbiddenError("You may not manage models of this organization.", field="organization")
    if credential is not None:
        model.encrypted_credentials = Cipher(settings.SECRET_KEY).encrypt({"token": credential} if credential else {})
    return _save(model, actor, model.organization_id, duplicate="This organization already has a model of this name.")


def save_endpoint(endpoint: Endpoint, *, actor: Actor) -> Endpoint:
    if not may_manage(actor, endpoint.organization_id) or not may_use_driver(actor, endpoint.cluster.driver):
        raise ForbiddenError("You may not expose models on this cluster for this organization.", field="cluster")
    problem = name_error(endpoint.name)
    if endpoint.name in RESERVED_ENDPOINT_NAMES:
        problem = f"“{endpoint.name}” is one of the gateway's own paths. Choose another name."
    if problem:
        raise ServiceError(problem, field="name")
    if endpoint.pk:
        before = Endpoint.objects.get(pk=endpoint.pk)
        if before.cluster_id != endpoint.cluster_id and endpoint.deployments.exists():
            raise ServiceError(
                "This endpoint has deployments; they run on its cluster. Make another endpoint instead.",
                field="cluster",
            )
    return _save(
        endpoint,
        actor,
        endpoint.organization_id,
        duplicate="An endpoint of this name exists; names are unique over all organizations.",
    )


def save_cluster(cluster: Cluster, *, actor: Actor, kubeconfig: str | None = None) -> Cluster:
    """Create or update. `kubeconfig` of None keeps the stored one, "" means the service account of Slipway's own pod."""
    if not may_manage_clusters(actor):
        raise ForbiddenError("Clusters are managed by operators.")
    problem = name_error(cluster.name)
    if problem:
        raise ServiceError(problem, field="name")
    if cluster.driver == Cluster.Driver.KUBERNETES:
        problem = name_error(cluster.namespace)
        if problem:
            raise ServiceError(f"Namespace: {problem}", field="namespace")
        if kubeconfig is not None:
            cluster.encrypted_kubeconfig = _sealed_kubeconfig(kubeconfig)
        if cluster.is_proxied and not cluster.encrypted_kubeconfig:
            raise ServiceError(
                "Through the API server gateways need a kubeconfig. Inside the cluster they reach pods by their addresses.",
                field="reach",
            )
    elif kubeconfig or cluster.namespace:
        raise ServiceError("This machine needs neither kubeconfig nor namespace.", field="driver")
    elif cluster.is_proxied:
        raise ServiceError("Instances on this machine are reached by their addresses.", field="reach")
    if cluster.pk and cluster.endpoints.filter(deployments__isnull=False).exists():
        before = Cluster.objects.get(pk=cluster.pk)
        if before.namespace != cluster.namespace:
            raise ServiceError(
                "Deployments run in this namespace. Add another cluster for another namespace.", field="namespace"
            )
    return _save(cluster, actor, None, duplicate="A cluster of this name exists.")


def _sealed_kubeconfig(text: str) -> str:
    """Encrypted; refused when it can't be used, before it is stored."""
    if not text.strip():
        return ""
    try:
        kubeconfigs.read(text)
    except kubeconfigs.KubeconfigError as error:
        raise ServiceError(str(error), field="kubeconfig") from None
    return Cipher(settings.SECRET_KEY).encrypt({"kubeconfig": text})


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


def _save(thing: Any, actor: Actor, organization_id: int | None, *, duplicate: str) -> Any:
    # What the reconciler writes is left to it: `thing` may have been read before its last look.
    fields = [
        field
        for field in thing._meta.concrete_fields
        if not field.primary_key
        and not getattr(field, "auto_now_add", False)
        and field.name not in ("seen_at", "unreachable_reason")
    ]
    created = thing.pk is None
    before = None if created else type(thing)._default_manager.filter(pk=thing.pk).first()
    if before is None and not created:
        raise ServiceError("It was deleted meanwhile.", code="conflict")
    changes = {
        field.name: [getattr(before, field.attname, None), getattr(thing, field.attname)]
        for field in fields
        if not field.name.startswith("encrypted")
        and getattr(before, field.attname, None) != getattr(thing, field.attname)
    }
    try:
        with transaction.atomic(), change():
            if created:
                thing.save(force_insert=True)
            else:
                thing.save(update_fields=[field.attname for field in fields])
            audit.record(
                actor=actor,
                action="create" if created else "update",
                thing=thing,
                organization_id=organization_id,
                changes=changes,
            )
            publish_on_commit(thing._meta.model_name, thing.pk)
    except IntegrityError:
        raise ServiceError(duplicate, code="duplicate", field="name") from None
    return thing
