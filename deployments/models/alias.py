from django.db import models

from accounts.models import Organization, User
from deployments.models.deployment import Deployment


class Alias(models.Model):
    """Another name by which an organization's keys call a deployment: what is written into clients stays as it is."""

    MOST = 200
    LONGEST = 120

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="aliases")
    name = models.CharField(max_length=LONGEST)
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="aliases")
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["organization", "name"], name="alias_once_per_organization")]

    def __str__(self) -> str:
        return self.name
