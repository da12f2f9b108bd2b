"""Celery's entry points. Each may run twice or never; the sweep makes up for it."""

from celery import shared_task

from deployments import reconcile
from deployments.models import Cluster


@shared_task(name="deployments.reconcile_cluster")
def reconcile_cluster(cluster_id: int) -> None:
    reconcile.reconcile_cluster(cluster_id)


@shared_task(name="deployments.sweep")
def sweep() -> None:
    """Look at every cluster: what no wake-up told is found here."""
    for cluster_id in Cluster.objects.values_list("pk", flat=True):
        reconcile.reconcile_cluster(cluster_id)
