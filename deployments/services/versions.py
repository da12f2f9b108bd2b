"""Writers of versions: create, start, stop, restart, scale, delete. One wanted version per deployment."""

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from accounts import audit
from accounts.permissions import Actor, may_manage, may_use_driver
from common.broadcast import publish_on_commit
from common.database_lock import hold
from common.encryption import Cipher, SecretUnreadableError
from common.service_error import ForbiddenError, ServiceError
from deployments import lifecycle
from deployments.models import Deployment, DesiredState, Rollout, Status, Version
from deployments.services import quotas, tenancy
from deployments.services.change import change
from deployments.services.organization_namespaces import lock_of
from runtimes.engines.registry import UnknownEngineError, engine
from runtimes.names import first_error, label_error, label_key_error, variable_error
from runtimes.specification import Specification

MAX_REPLICAS = 100


def create_version(
    deployment: Deployment,
    specification: Specification,
    replicas: int,
    *,
    actor: Actor,
    strategy: str = Rollout.Strategy.REPLACE,
) -> Version:
    """Create the next version and start it; the wanted one, if any, shuts down."""
    _check_may_deploy(deployment, actor)
    check_specification(specification, deployment.endpoint.cluster.driver)
    tenancy.check_asked(deployment, specification, actor=actor)
    _check_replicas(replicas)
    with change(reconcile_cluster=deployment.endpoint.cluster_id):
        _lock(deployment)
        quotas.check_version(deployment, specification, replicas)
        Deployment.objects.filter(pk=deployment.pk).update(last_number=F("last_number") + 1)
        deployment.refresh_from_db(fields=["last_number"])
        old = _unwant_current(deployment, actor, strategy)
        now = timezone.now()
        version = Version.objects.create(
            deployment=deployment,
            number=deployment.last_number,
            specification_json=specification.to_json(),
            encrypted_secrets=Cipher(settings.INSTALLATION_KEYS.encryption).encrypt(specification.secret_environment),
            replicas=replicas,
            created_by=actor,
            start_requested_at=now,
            changed_at=now,
            status_since=now,
        )
        _open_rollout(version, old, strategy)
        lifecycle.record_event(
            version,
            "created",
            f"Version {version.number} created, wants {replicas} {'replica' if replicas == 1 else 'replicas'}.",
            actor=actor,
        )
        _audit(actor, "create", version)
    return version


def start_version(version: Version, *, actor: Actor, strategy: str = Rollout.Strategy.REPLACE) -> None:
    """Start an inactive version again; the wanted one, if any, shuts down."""
    deployment = version.deployment
    _check_may_deploy(deployment, actor)
    with change(reconcile_cluster=deployment.endpoint.cluster_id):
        _lock(deployment)
        _refresh(version)
        if not version.is_inactive:
            status = Status(version.status).label
            raise ServiceError(
                f"Version {version.number} is {status}; only a stopped one or one in error can be started.",
                code="active",
            )
        # The specification may have stopped being possible since: a program removed, a file moved.
        check_specification(_secrets_of(version), deployment.endpoint.cluster.driver)
        if actor is not None:
            tenancy.check_asked(deployment, version.specification, actor=actor)
            quotas.check_version(deployment, version.specification, version.replicas)
        else:
            # By itself: somebody wanted it, and it has counted since. But not where its organization may not be any more.
            tenancy.check_organization(deployment.organization, deployment.endpoint.cluster)
        old = _unwant_current(deployment, actor, strategy)
        now = timezone.now()
        moved = lifecycle.advance(
            version, Status.PREPARING, desired_state=DesiredState.RUNNING, generation=version.generation + 1,
            start_requested_at=now, changed_at=now, ready_at=None, unready_since=None, start_again_at=None,
            failed_starts=version.failed_starts if actor is None else 0,
        )  # fmt: skip
        if not moved:
            raise ServiceError(
                "Someone else changed this version at the same moment. Look at its status and try again.",
                code="conflict",
            )
        _open_rollout(version, old, strategy)
        _audit(actor, "start", version)


def start_again(version: Version) -> None:
    """Try a failed start once more, as Slipway itself; not when somebody has decided otherwise since."""
    with transaction.atomic():
        _lock(version.deployment)
        _refresh(version)
        if version.status != Status.ERROR or version.start_again_at is None:
            return
        if Version.objects.filter(deployment=version.deployment, desired_state=DesiredState.RUNNING).exists():
            Version.objects.filter(pk=version.pk).update(start_again_at=None)
            return
        start_version(version, actor=None)


def stop_version(version: Version, *, actor: Actor) -> None:
    """Shut the version down. Stopping one that is inactive changes nothing."""
    _check_may_deploy(version.deployment, actor)
    with change(reconcile_cluster=version.deployment.endpoint.cluster_id):
        _lock(version.deployment)
        _refresh(version)
        if version.desired_state == DesiredState.STOPPED:
            _stop_trying(version, actor)
            return
        _try_none_again(version.deployment)
        _unwant(version)
        lifecycle.record_event(version, "stop", f"Version {version.number} is to stop.", actor=actor)
        _audit(actor, "stop", version)


def scale_version(version: Version, replicas: int, *, actor: Actor) -> None:
    """Change the number of replicas; instances that stay are not touched."""
    _check_may_deploy(version.deployment, actor)
    _check_replicas(replicas)
    with change(reconcile_cluster=version.deployment.endpoint.cluster_id):
        _lock(version.deployment)
        _refresh(version)
        if version.desired_state == DesiredState.STOPPED and not version.is_inactive:
            raise ServiceError(f"Version {version.number} is to stop. Start a version first.", code="conflict")
        old = version.replicas
        if old == replicas:
            return
        if replicas > old and version.desired_state == DesiredState.RUNNING:
            tenancy.check_asked(version.deployment, version.specification, actor=actor)
            quotas.check_version(version.deployment, version.specification, replicas)
        Version.objects.filter(pk=version.pk).update(replicas=replicas, changed_at=timezone.now())
        version.replicas = replicas
        lifecycle.record_event(version, "scale", f"Version {version.number}: replicas {old} → {replicas}.", actor=actor)
        _audit(actor, "scale", version, replicas=[old, replicas])


def _stop_trying(version: Version, actor: Actor) -> None:
    """A failed start that would be tried again by itself is left as it is."""
    if version.start_again_at is None:
        return
    Version.objects.filter(pk=version.pk).update(start_again_at=None)
    version.start_again_at = None
    message = f"Slipway won't retry version {version.number}."
    lifecycle.record_event(version, "stop", message, actor=actor)
    _audit(actor, "stop", version)


def delete_version(version: Version, *, actor: Actor) -> None:
    """Delete an inactive version for good, with its events; its logs expire with their day."""
    _check_may_deploy(version.deployment, actor)
    with change(reconcile_cluster=version.deployment.endpoint.cluster_id):
        _lock(version.deployment)
        _refresh(version)
        if not version.is_inactive:
            status = Status(version.status).label
            raise ServiceError(
                f"Version {version.number} is {status}. Stop it first; an active version can't be deleted.",
                code="active",
            )
        if version.instances.filter(ended_at=None).exists():
            raise ServiceError(
                f"Version {version.number} still has instances that are ending. Try again in a moment.", code="active"
            )
        _audit(actor, "delete", version)
        version.delete()
        publish_on_commit("deployment", version.deployment_id)


def check_specification(specification: Specification, driver: str) -> None:
    """Raise for the first field that would not start there; forms show all of them."""
    for field, message in specification_errors(specification, driver).items():
        raise ServiceError(message, code="invalid", field=field)


def specification_errors(specification: Specification, driver: str) -> dict[str, str]:
    """Messages by form field."""
    try:
        chosen = engine(specification.engine)
    except UnknownEngineError as error:
        return {"engine": str(error)}
    reason = chosen.unavailable_reason(driver)
    if reason:
        return {"engine": reason}
    errors = _name_errors(specification) | chosen.setting_errors(specification)
    image_error = chosen.image_error(specification, driver)
    if image_error:
        errors["image"] = image_error
    source_error = chosen.source_error(specification, driver)
    if source_error:
        errors["model"] = source_error
    cache_error = chosen.cache_error(specification)
    if cache_error:
        errors["cache_claim"] = cache_error
    # What an engine says of its settings' meaning makes sense only for settings of the right kind.
    return errors or chosen.field_errors(specification, driver)


def _name_errors(specification: Specification) -> dict[str, str]:
    checks = {
        "environment_variables": (specification.environment, variable_error),
        "secret_variables": (specification.secret_environment, variable_error),
        "labels": (specification.labels, label_error),
        "node_selector": (specification.node_selector, label_error),
        "annotations": (specification.annotations, label_key_error),
    }
    found = {field: problem for field, (values, check) in checks.items() if (problem := first_error(values, check))}
    for toleration in specification.tolerations:
        if toleration.operator == "Exists" and toleration.value:
            found["tolerations"] = f"“{toleration.key}” with “Exists” takes any value: leave the value out."
        elif problem := label_error(toleration.key, toleration.value):
            found["tolerations"] = problem
    for wish in specification.pod_affinity:
        if problem := label_error(wish.label, wish.value) or label_key_error(wish.topology_key):
            found["pod_affinity"] = problem
    return found


def _check_may_deploy(deployment: Deployment, actor: Actor) -> None:
    if not may_manage(actor, deployment.organization_id) or not may_use_driver(
        actor, deployment.endpoint.cluster.driver
    ):
        raise ForbiddenError("You may not run models on this cluster for this organization.")


def _check_replicas(replicas: int) -> None:
    if not 1 <= replicas <= MAX_REPLICAS:
        raise ServiceError(
            f"Replicas are 1 to {MAX_REPLICAS}. To have none, stop the version.", code="invalid", field="replicas"
        )


def _lock(deployment: Deployment) -> None:
    """Two people who click at once wait for each other here; the second sees what the first did. So does who changes the
    namespaces of the cluster.

    NO KEY: a plain FOR UPDATE would block the reconciler's events, which refer to this row, while it holds a version's
    row that the service wants next: a deadlock.
    """
    hold(lock_of(deployment.endpoint.cluster_id), shared=True)
    if Deployment.objects.select_for_update(no_key=True).filter(pk=deployment.pk).first() is None:
        raise ServiceError("The deployment was deleted meanwhile.", code="conflict")


def _refresh(version: Version) -> None:
    try:
        version.refresh_from_db()
    except Version.DoesNotExist:
        raise ServiceError(f"Version {version.number} was deleted meanwhile.", code="conflict") from None


def _secrets_of(version: Version) -> Specification:
    try:
        return version.specification_with_secrets()
    except SecretUnreadableError as error:
        raise ServiceError(str(error), code="secret_unreadable") from None


def _unwant_current(deployment: Deployment, actor: Actor, strategy: str) -> Version | None:
    if strategy not in Rollout.Strategy.values:
        raise ServiceError(f"The strategy is one of {', '.join(Rollout.Strategy.values)}.", field="strategy")
    old = Version.objects.filter(deployment=deployment, desired_state=DesiredState.RUNNING).first()
    _try_none_again(deployment)
    if old:
        _unwant(old)
        when = "when" if strategy == Rollout.Strategy.ZERO_DOWNTIME else "so that"
        message = f"Version {old.number} is to stop {when} another version takes its place."
        lifecycle.record_event(old, "stop", message, actor=actor)
    return old


def _try_none_again(deployment: Deployment) -> None:
    """Somebody has decided what is wanted: failed starts of before are left as they are."""
    Version.objects.filter(deployment=deployment).exclude(start_again_at=None).update(start_again_at=None)


def _unwant(version: Version) -> None:
    Version.objects.filter(pk=version.pk).update(desired_state=DesiredState.STOPPED, changed_at=timezone.now())
    version.desired_state = DesiredState.STOPPED


def _open_rollout(version: Version, old: Version | None, strategy: str) -> None:
    """Note who takes whose place, and how. Without a version that serves there is no downtime to avoid."""
    before = Rollout.objects.filter(deployment=version.deployment, finished_at=None).select_related("old").first()
    phase = Rollout.Phase.STOPPING_OLD
    if strategy == Rollout.Strategy.ZERO_DOWNTIME:
        # During an earlier change of this kind it is the one before that serves.
        held = before.old if before and before.strategy == Rollout.Strategy.ZERO_DOWNTIME else None
        serving = next((item for item in (held, old) if item and item.status == Status.RUNNING), None)
        if serving is None:
            strategy = Rollout.Strategy.REPLACE
        else:
            old, phase = serving, Rollout.Phase.STARTING_NEW
    if before:
        Rollout.objects.filter(pk=before.pk).update(phase=Rollout.Phase.SUPERSEDED, finished_at=timezone.now())
    Rollout.objects.create(deployment=version.deployment, old=old, new=version, strategy=strategy, phase=phase)


def _audit(actor: Actor, action: str, version: Version, **changes: list[object]) -> None:
    audit.record(
        actor=actor, action=action, thing=version, organization_id=version.deployment.organization_id, changes=changes
    )
