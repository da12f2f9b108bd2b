"""One change: a transaction that ends by taking the directory's next version, then wakes the reconciler."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction

from common.queue import enqueue_on_commit
from deployments.models import DirectoryVersion


@contextmanager
def change(*, reconcile_cluster: int | None = None) -> Iterator[None]:
    """Wrap the writes of one service call. The version is taken last, so its row is locked for a moment only."""
    with transaction.atomic():
        yield
        DirectoryVersion.bump()
        if reconcile_cluster is not None:
            enqueue_on_commit("deployments.reconcile_cluster", reconcile_cluster)
