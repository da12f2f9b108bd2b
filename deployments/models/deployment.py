from django.db import models

from accounts.models import Organization, User
from deployments.models.endpoint import Endpoint
from deployments.models.model import Model


class Deployment(models.Model):
    """A model bound to an endpoint, with what outlives versions."""

    class Environment(models.TextChoices):
        PRODUCTION = "production", "Production"
        STAGING = "staging", "Staging"
        DEVELOPMENT = "development", "Development"

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="deployments")
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="deployments")
    endpoint = models.ForeignKey(Endpoint, on_delete=models.PROTECT, related_name="deployments")
    name = models.CharField(max_length=63)
    description = models.TextField(blank=True, max_length=2000)
    environment = models.CharField(max_length=16, choices=Environment.choices, default=Environment.DEVELOPMENT)
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name", "pk"]
        constraints = [
            models.UniqueConstraint(fields=["organization", "name"], name="deployment_name_once_per_organization"),
            models.UniqueConstraint(fields=["endpoint", "name"], name="deployment_name_once_per_endpoint"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def api_id(self) -> str:
        return f"{self.organization.name}/{self.name}"
