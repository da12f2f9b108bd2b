from django.conf import settings
from django.db import models

from accounts.models import Organization, User
from deployments.models.endpoint import Endpoint
from deployments.models.model import Model


def default_access() -> str:
    """As operators have set it; what nobody asks for shall not be open where strangers may be."""
    return str(settings.DEFAULT_ACCESS)


class Deployment(models.Model):
    """A model bound to an endpoint, with what outlives versions."""

    class Environment(models.TextChoices):
        PRODUCTION = "production", "Production"
        STAGING = "staging", "Staging"
        DEVELOPMENT = "development", "Development"

    class Access(models.TextChoices):
        PUBLIC = "public", "Public: anyone who can reach the gateway"
        KEY_ONLY = "key_only", "Only with an API key"

    class Sharing(models.TextChoices):
        NONE = "none", "Only the owner's organization"
        ALL = "all", "All organizations"
        SPECIFIC = "specific", "These organizations as well"

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="deployments")
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="deployments")
    endpoint = models.ForeignKey(Endpoint, on_delete=models.PROTECT, related_name="deployments")
    name = models.CharField(max_length=63)
    description = models.TextField(blank=True, max_length=2000)
    environment = models.CharField(max_length=16, choices=Environment.choices, default=Environment.DEVELOPMENT)
    # Who may call it; and, with a key only, which organizations' keys are good besides the owner's.
    access = models.CharField(max_length=16, choices=Access.choices, default=default_access)
    sharing = models.CharField(max_length=16, choices=Sharing.choices, default=Sharing.NONE)
    shared_with = models.ManyToManyField(Organization, related_name="shared_deployments", blank=True)
    # Whether input tokens that the engine had cached leave limits as they are.
    limits_leave_cached_out = models.BooleanField(default=False, db_default=False)
    # Whether a start that failed through a cause outside of the version is tried again by itself.
    starts_again = models.BooleanField(default=True)
    # The number of the last version, be it deleted: what charts, logs and scripts call by its number stays that.
    last_number = models.PositiveIntegerField(default=0)
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
    def is_public(self) -> bool:
        return self.access == self.Access.PUBLIC

    @property
    def api_id(self) -> str:
        return f"{self.organization.name}/{self.name}"
