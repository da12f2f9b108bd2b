from django.db import models


class Cluster(models.Model):
    """A place where models run, reached through a runtime driver."""

    class Driver(models.TextChoices):
        LOCAL = "local", "This machine (processes)"
        KUBERNETES = "kubernetes", "Kubernetes"

    class Reach(models.TextChoices):
        ADDRESS = "address", "By the pods' own addresses"
        API_SERVER = "api_server", "Through the cluster's API server"

    name = models.CharField(max_length=63, unique=True)
    description = models.TextField(blank=True, max_length=2000)
    driver = models.CharField(max_length=16, choices=Driver.choices, default=Driver.LOCAL)
    # For Kubernetes: where instances run, and how the cluster is reached; empty: as a pod of it, by its service account.
    namespace = models.CharField(max_length=63, blank=True)
    encrypted_kubeconfig = models.TextField(blank=True)
    # How gateways reach instances. Through the API server they need no route to the pods' network.
    reach = models.CharField(max_length=16, choices=Reach.choices, default=Reach.ADDRESS)
    created_at = models.DateTimeField(auto_now_add=True)
    # Since when its state has been read without a pause; while it can't be read, statuses are frozen and `seen_at` tells when
    # it last was. Both are written when that changes only: how it is now stands in Valkey (deployments.cluster_health).
    seen_since = models.DateTimeField(null=True)
    seen_at = models.DateTimeField(null=True)
    unreachable_reason = models.TextField(blank=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def is_proxied(self) -> bool:
        """Whether gateways reach instances through the cluster's API server."""
        return self.reach == self.Reach.API_SERVER
