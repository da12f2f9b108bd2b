from django.db import models

from accounts.models import Organization
from deployments.models.cluster import Cluster


class Endpoint(models.Model):
    """Where models are exposed: a cluster, and `name` as the path prefix at the gateway."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="endpoints")
    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="endpoints")
    name = models.CharField(max_length=63, unique=True)
    description = models.TextField(blank=True, max_length=2000)
    # Of other sites' pages that may call its deployments and read their answers; "*" for any. None by default.
    origins = models.JSONField(default=list, db_default=models.Value([], models.JSONField()))
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
