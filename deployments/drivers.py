"""The runtime driver of a cluster."""

from functools import lru_cache

from django.conf import settings

from common.encryption import Cipher, SecretUnreadableError
from deployments.models import Cluster, Installation
from runtimes.driver import ClusterUnreachableError, Driver
from runtimes.kubernetes import kubeconfig
from runtimes.kubernetes.client import KubernetesClient
from runtimes.kubernetes.driver import KubernetesDriver
from runtimes.local.driver import LocalDriver


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
    return KubernetesDriver(client, namespace=cluster.namespace, installation=Installation.name(), cluster=cluster.uid)


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
