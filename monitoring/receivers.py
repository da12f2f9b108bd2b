"""What changes below this app and matters to its tables.

`deployments` doesn't know of the ledger, so it is told from here, in the same transaction as the change.
"""

from typing import Any

from django.db.models.signals import pre_delete
from django.dispatch import receiver

from deployments.models import Deployment
from monitoring import ledger


@receiver(pre_delete, sender=Deployment)
def deployment_deleted(instance: Deployment, **kwargs: Any) -> None:
    """What is booked afterwards needs its name, and its owner needs to see it."""
    ledger.note_names({instance.pk})
