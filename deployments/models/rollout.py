from django.db import models

from deployments.models.deployment import Deployment
from deployments.models.version import Version


class Rollout(models.Model):
    """The overlap while one version takes another's place."""

    class Strategy(models.TextChoices):
        REPLACE = "replace", "Replace: stop the running version, then start this one"
        ZERO_DOWNTIME = "zero_downtime", "Zero downtime: start this one, move the traffic when it is ready, then stop"

    class Phase(models.TextChoices):
        STOPPING_OLD = "stopping_old", "Waiting for the earlier version to shut down"
        STARTING_NEW = "starting_new", "Starting"
        MOVED = "moved", "Traffic moved, waiting for the gateways"
        DONE = "done", "Done"
        FAILED = "failed", "Failed"
        SUPERSEDED = "superseded", "Superseded"

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="rollouts")
    old = models.ForeignKey(Version, on_delete=models.SET_NULL, null=True, related_name="+")
    new = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="rollouts")
    strategy = models.CharField(max_length=16, choices=Strategy.choices, default=Strategy.REPLACE)
    phase = models.CharField(max_length=16, choices=Phase.choices, default=Phase.STOPPING_OLD)
    created_at = models.DateTimeField(auto_now_add=True)
    # Without a pause: since when, and by which version of the directory, the traffic goes to the new version.
    moved_at = models.DateTimeField(null=True)
    moved_version = models.BigIntegerField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["deployment"],
                condition=models.Q(finished_at__isnull=True),
                name="one_open_rollout_per_deployment",
            )
        ]

    def __str__(self) -> str:
        return f"{self.deployment.name}: {self.strategy}, {self.phase}"
