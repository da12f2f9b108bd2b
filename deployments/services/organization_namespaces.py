"""Whether a cluster's template for organizations' namespaces, and who may call instances there, can be what somebody wants."""

from common.naming import name_error
from common.service_error import ServiceError
from deployments.drivers import kubernetes_driver
from deployments.models import Cluster, DesiredState, Instance, Stranger, Version
from runtimes.driver import DriverError
from runtimes.kubernetes.namespaces import caller_error
from runtimes.kubernetes.places import ORGANIZATION, PREFIX, TEMPLATE


def check(cluster: Cluster) -> None:
    """Raises ServiceError that names the field."""
    template = cluster.namespace_template
    for caller in cluster.callers:
        if problem := caller_error(caller):
            raise ServiceError(problem, field="callers")
    before = Cluster.objects.filter(pk=cluster.pk).first() if cluster.pk else None
    check_nothing_is_left_behind(cluster)
    if not template:
        return
    if not is_template(template):
        raise ServiceError(
            f"A template like {TEMPLATE}: it holds {ORGANIZATION}, maybe {PREFIX}, and lower-case letters, digits and hyphens.",
            field="namespace_template",
        )
    if before is not None and not before.namespace_template:
        _check_rights(cluster)


def is_template(text: str) -> bool:
    """Whether it makes a name of its own for each organization."""
    return ORGANIZATION in text and not name_error(text.replace(PREFIX, "a").replace(ORGANIZATION, "a"))


def lock_of(cluster_id: int) -> str:
    """Held shared by whoever wants something to run there, and alone by who changes where that is."""
    return f"namespaces.{cluster_id}"


def check_nothing_is_left_behind(cluster: Cluster) -> None:
    """Namespaces that the template of before made are looked after no more, and without one not even seen: what runs
    there would be started once more. Good for as long as `lock_of` is held."""
    before = Cluster.objects.filter(pk=cluster.pk).values_list("namespace_template", flat=True).first()
    if before in (None, "", cluster.namespace_template):
        return
    instances = Instance.objects.filter(version__deployment__endpoint__cluster=cluster, ended_at=None)
    starting = Version.objects.filter(deployment__endpoint__cluster=cluster, desired_state=DesiredState.RUNNING)
    # Those without an instance yet may get one there at any moment.
    there = instances.exclude(namespace="").values("version").distinct().count()
    there += starting.exclude(pk__in=instances.values("version")).count()
    if there:
        versions = "1 version runs or starts" if there == 1 else f"{there} versions run or start"
        raise ServiceError(f"{versions} in organizations’ own namespaces. Stop them first.", field="namespace_template")
    strangers = Stranger.objects.filter(cluster=cluster, name__contains="/").count()
    if strangers:
        raise ServiceError(
            f"Strangers in organizations’ own namespaces would be lost from sight ({strangers}). Adopt or remove them first.",
            field="namespace_template",
        )


def _check_rights(cluster: Cluster) -> None:
    """With a template all namespaces are looked at: without the right to, nothing at all would be seen any more."""
    try:
        checks = kubernetes_driver(cluster).check(proxied=cluster.is_proxied)
    except DriverError:
        # It doesn't answer now: the page says so, and which rights are missing once it does.
        return
    missing = [item.what for item in checks if not (item.is_granted or item.is_optional)]
    if missing:
        raise ServiceError(
            f"The kubeconfig's account lacks rights for this: {', '.join(missing)}. Apply the recipe for organizations’ own "
            "namespaces below, then save again.",
            field="namespace_template",
        )
