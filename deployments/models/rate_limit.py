from django.db import models

from deployments.models.deployment import Deployment


class RateLimit(models.Model):
    """How much one organization, one user, one key, or all callers without a key together may ask of a deployment.

    Absent, or null: as much as they like. All that apply to a request apply together.
    """

    class Level(models.TextChoices):
        ORGANIZATION = "organization", "Each organization"
        USER = "user", "Each user"
        KEY = "key", "Each API key"
        PUBLIC = "public", "All callers without a key"

    MOST = 1_000_000_000

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="rate_limits")
    level = models.CharField(max_length=16, choices=Level.choices)
    requests_per_minute = models.PositiveIntegerField(null=True)
    tokens_per_minute = models.PositiveIntegerField(null=True)

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["deployment", "level"], name="rate_limit_once_per_level")]

    def __str__(self) -> str:
        return f"{self.level} of {self.deployment_id}"
