from django.db import models

from accounts.models import User
from deployments.models.deployment import Deployment
from deployments.models.version import Version


class Event(models.Model):
    """What happened to a deployment: each status change, each act of a person, each instance that came or went."""

    class Severity(models.TextChoices):
        INFO = "info", "Info"
        WARNING = "warning", "Warning"
        ERROR = "error", "Error"

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="events")
    version = models.ForeignKey(Version, on_delete=models.CASCADE, null=True, related_name="events")
    instance_uid = models.CharField(max_length=64, blank=True)
    at = models.DateTimeField(auto_now_add=True)
    kind = models.CharField(max_length=32)
    severity = models.CharField(max_length=8, choices=Severity.choices, default=Severity.INFO)
    message = models.TextField()
    old_status = models.CharField(max_length=16, blank=True)
    new_status = models.CharField(max_length=16, blank=True)
    actor = models.ForeignKey(User, on_delete=models.SET_NULL, null=True)

    class Meta:
        ordering = ["-at", "-pk"]
        indexes = [models.Index(fields=["deployment", "-at"])]

    def __str__(self) -> str:
        return self.message
