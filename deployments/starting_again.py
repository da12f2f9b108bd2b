"""Starts again what failed to start through a cause outside of the version, with growing pauses."""

import logging
from datetime import timedelta

from django.utils import timezone

from common.service_error import ServiceError
from deployments.decide import START_AGAIN_AFTER_S
from deployments.models import Cluster, Status, Version
from deployments.services.versions import start_again

log = logging.getLogger(__name__)


def start_due(cluster: Cluster) -> None:
    """Try those whose pause is over. What can't be tried at all now is left for the next time."""
    now = timezone.now()
    due = Version.objects.filter(
        status=Status.ERROR,
        start_again_at__lte=now,
        deployment__endpoint__cluster=cluster,
        deployment__starts_again=True,
    ).select_related("deployment__endpoint__cluster", "deployment__organization")
    for version in due:
        try:
            start_again(version)
        except ServiceError as error:
            log.info("%s can't be started again: %s", version, error)
            later = now + timedelta(seconds=START_AGAIN_AFTER_S[-1])
            Version.objects.filter(pk=version.pk, start_again_at=version.start_again_at).update(start_again_at=later)
