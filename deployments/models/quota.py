from django.db import models

from accounts.models import Organization
from deployments.models.cluster import Cluster


class Quota(models.Model):
    """How much an organization may want at once, on all clusters together, or all organizations together on a cluster.

    None where there is no bound. `cpu` in cores, `memory` in bytes. A cluster's has no bounds for keys, asynchronous requests
    and tokens. `tokens` are those of a month in its time zone, of prompts and answers together, wherever they were used.
    """

    organization = models.OneToOneField(Organization, models.CASCADE, null=True, related_name="quota")
    cluster = models.OneToOneField(Cluster, models.CASCADE, null=True, related_name="quota")
    deployments = models.PositiveIntegerField(null=True, blank=True)
    instances = models.PositiveIntegerField(null=True, blank=True)
    gpus = models.PositiveIntegerField(null=True, blank=True)
    cpu = models.FloatField(null=True, blank=True)
    memory = models.BigIntegerField(null=True, blank=True)
    keys = models.PositiveIntegerField(null=True, blank=True)
    # Those that wait or run; held where they are submitted (async_inference.statements).
    async_requests = models.PositiveIntegerField(null=True, blank=True)
    tokens = models.BigIntegerField(null=True, blank=True)
    # The first day of the month in which the ledger was last seen to hold them all (monitoring.token_quotas).
    tokens_spent_in = models.DateField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="quota_of_one",
                condition=models.Q(organization__isnull=False, cluster__isnull=True)
                | models.Q(organization__isnull=True, cluster__isnull=False),
            )
        ]

    def __str__(self) -> str:
        return f"quota of {self.owner}"

    @property
    def owner(self) -> Organization | Cluster:
        return self.organization or self.cluster  # type: ignore[return-value]  # one of them, says the table
