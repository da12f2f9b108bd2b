"""Celery's entry points. Each may run twice or never; the sweep makes up for it.

A task hands the cluster to its own lane and ends: the worker's few threads are never held by a cluster that answers slowly,
and each cluster has one thread of its own, with calls that end in time.
"""

from celery import shared_task

from common.lanes import Lanes
from deployments import reconcile
from deployments.models import Cluster

_lanes = Lanes("reconcile", reconcile.reconcile_cluster)


@shared_task(name="deployments.reconcile_cluster")
def reconcile_cluster(cluster_id: int) -> None:
    _lanes.ask(cluster_id)


@shared_task(name="deployments.sweep")
def sweep() -> None:
    """Look at every cluster: what no wake-up told is found here."""
    for cluster_id in Cluster.objects.values_list("pk", flat=True):
        _lanes.ask(cluster_id)
