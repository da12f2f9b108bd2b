from django.db import models


class Cluster(models.Model):
    """A place where models run, reached through a runtime driver."""

    class Driver(models.TextChoices):
        LOCAL = "local", "This machine (processes)"
        KUBERNETES = "kubernetes", "Kubernetes"

    name = models.CharField(max_length=63, unique=True)
    description = models.TextField(blank=True, max_length=2000)
    driver = models.CharField(max_length=16, choices=Driver.choices, default=Driver.LOCAL)
    # For Kubernetes: where instances run, and how the cluster is reached; empty: as a pod of it, by its service account.
    namespace = models.CharField(max_length=63, blank=True)
    encrypted_kubeconfig = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    # When its state was last read; while it can't be read, statuses are frozen and say since when.
    seen_at = models.DateTimeField(null=True)
    unreachable_reason = models.TextField(blank=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
