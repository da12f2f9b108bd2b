"""The runtime driver of a cluster."""

from django.conf import settings

from deployments.models import Cluster
from runtimes.driver import Driver
from runtimes.local.driver import LocalDriver


def driver_of(cluster: Cluster) -> Driver:
    """The driver that reaches `cluster`. Every process that asks gets an equivalent one; drivers hold no state."""
    return local_driver(cluster.pk)


def local_driver(cluster_id: int) -> LocalDriver:
    return LocalDriver(settings.HOME.instances / str(cluster_id))
