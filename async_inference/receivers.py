"""What changes below this app and matters to the queue."""

from typing import Any

from django.db.models.signals import pre_delete
from django.dispatch import receiver

from async_inference import services
from deployments.models import Deployment


@receiver(pre_delete, sender=Deployment)
def deployment_deleted(instance: Deployment, **kwargs: Any) -> None:
    """In the same transaction: nothing may wait for what will never come back."""
    services.cancel_all(
        instance.pk, code="deployment_deleted", message=f"The deployment {instance.api_id} was deleted."
    )
