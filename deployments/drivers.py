"""The runtime driver of a cluster."""

from functools import lru_cache
from pathlib import Path

from django.conf import settings

from common.encryption import Cipher, SecretUnreadableError
from deployments.models import Cluster, Installation
from runtimes.driver import ClusterUnreachableError, Driver
from runtimes.kubernetes import kubeconfig
from runtimes.kubernetes.client import KubernetesClient
from runtimes.kubernetes.driver import KubernetesDriver
from runtimes.kubernetes.places import Places
from runtimes.local.driver import LocalDriver

# As Kubernetes puts it into every pod.
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def driver_of(cluster: Cluster) -> Driver:
    """The driver that reaches `cluster`. Every process that asks gets an equivalent one; drivers hold no state.

    Raises ClusterUnreachableError when its credentials can't be used.
    """
    if cluster.driver == Cluster.Driver.KUBERNETES:
        return kubernetes_driver(cluster)
    return local_driver(cluster.pk)


def local_driver(cluster_id: int) -> LocalDriver:
    return LocalDriver(settings.HOME.instances / str(cluster_id))


def kubernetes_driver(cluster: Cluster) -> KubernetesDriver:
    client = _client(cluster.encrypted_kubeconfig)
    return KubernetesDriver(
        client,
        namespace=cluster.namespace,
        installation=Installation.name(),
        cluster=cluster.uid,
        template=cluster.namespace_template,
        callers=(*cluster.callers, *_own_namespace(cluster)),
    )


def places_of(cluster: Cluster) -> Places:
    return Places(cluster.namespace, cluster.namespace_template)


def _own_namespace(cluster: Cluster) -> tuple[str, ...]:
    """Where Slipway is a pod of this cluster its gateways are, too."""
    if cluster.encrypted_kubeconfig or not _POD_NAMESPACE.is_file():
        return ()
    return (_POD_NAMESPACE.read_text().strip(),)


@lru_cache(maxsize=64)
def _client(encrypted_kubeconfig: str) -> KubernetesClient:
    """One pool of connections per cluster and process; other credentials make another."""
    if not encrypted_kubeconfig:
        return KubernetesClient(None)
    try:
        text = Cipher(settings.INSTALLATION_KEYS.encryption).decrypt(encrypted_kubeconfig)["kubeconfig"]
    except SecretUnreadableError as error:
        raise ClusterUnreachableError(f"{error} Enter the kubeconfig again.") from None
    try:
        return KubernetesClient(kubeconfig.read(text))
    except kubeconfig.KubeconfigError as error:
        raise ClusterUnreachableError(f"{error} Enter another kubeconfig.") from None
