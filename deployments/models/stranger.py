from django.db import models

from deployments.models.cluster import Cluster


class Stranger(models.Model):
    """Something that runs in a cluster and that no version of ours accounts for, as last seen.

    People adopt or remove it; nothing else does. `description` is what whoever made it wrote about it, as JSON.
    """

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="strangers")
    name = models.CharField(max_length=253)
    version_key = models.CharField(max_length=63, blank=True)
    generation = models.PositiveIntegerField(default=0)
    replicas = models.PositiveIntegerField(default=0)
    ready = models.PositiveIntegerField(default=0)
    installation = models.CharField(max_length=63, blank=True)
    owner_cluster = models.CharField(max_length=63, blank=True)
    description = models.TextField(blank=True)
    first_seen_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["cluster", "name"], name="stranger_once_per_cluster")]

    def __str__(self) -> str:
        return self.name
