"""One change: a transaction that ends by taking the directory's next version, then wakes the reconciler."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import IntegrityError, transaction
from psycopg.errors import UniqueViolation

from common.queue import enqueue_on_commit
from common.service_error import ServiceError
from deployments.models import DirectoryVersion


@contextmanager
def change(*, reconcile_cluster: int | None = None) -> Iterator[None]:
    """Wrap the writes of one service call. The version is taken last, so its row is locked for a moment only."""
    with transaction.atomic():
        yield
        DirectoryVersion.bump()
        if reconcile_cluster is not None:
            enqueue_on_commit("deployments.reconcile_cluster", reconcile_cluster)


def refusal(error: IntegrityError, duplicate: str) -> ServiceError:
    """What the database refused, in words: a name that is taken, or something that was deleted at the same moment."""
    if isinstance(error.__cause__, UniqueViolation):
        return ServiceError(duplicate, code="duplicate", field="name")
    return ServiceError("What this refers to was deleted meanwhile. Choose again.", code="conflict")
