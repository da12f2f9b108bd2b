import secrets

from django.conf import settings
from django.db import models

from accounts.models import User
from common.encryption import Cipher
from deployments.models.deployment import Deployment
from runtimes.cause import Cause
from runtimes.specification import Specification


class Status(models.TextChoices):
    PREPARING = "preparing", "Preparing"
    RUNNING = "running", "Running"
    SHUTTING_DOWN = "shutting_down", "Shutting Down"
    STOPPED = "stopped", "Stopped"
    ERROR = "error", "Error"

    @property
    def is_inactive(self) -> bool:
        """Only inactive versions may be restarted or deleted."""
        return self in (Status.STOPPED, Status.ERROR)


INACTIVE = (Status.STOPPED, Status.ERROR)


class DesiredState(models.TextChoices):
    RUNNING = "running", "Running"
    STOPPED = "stopped", "Stopped"


def new_key() -> str:
    return f"v{secrets.token_hex(5)}"


class Version(models.Model):
    """One immutable specification. People write `desired_state` and `replicas`, only the reconciler writes `status`."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    # The name under which runtime drivers know it; no other database makes the same one.
    key = models.CharField(max_length=63, unique=True, default=new_key)
    specification_json = models.JSONField()
    encrypted_secrets = models.TextField(blank=True)
    replicas = models.PositiveIntegerField()
    desired_state = models.CharField(max_length=16, choices=DesiredState.choices, default=DesiredState.RUNNING)
    status = models.CharField(max_length=16, choices=Status.choices, default=Status.PREPARING)
    cause_json = models.JSONField(null=True)
    # Counts starts: instances of an earlier start never count for a later one.
    generation = models.PositiveIntegerField(default=1)
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    start_requested_at = models.DateTimeField()
    changed_at = models.DateTimeField()
    ready_at = models.DateTimeField(null=True)
    unready_since = models.DateTimeField(null=True)
    status_since = models.DateTimeField()
    # A start that failed through a cause outside of the version is tried again then, unless somebody decides otherwise.
    start_again_at = models.DateTimeField(null=True)
    # How many starts in a row have failed that way.
    failed_starts = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["deployment", "number"], name="version_number_once_per_deployment"),
            models.UniqueConstraint(
                fields=["deployment"],
                condition=models.Q(desired_state=DesiredState.RUNNING),
                name="one_wanted_version_per_deployment",
            ),
        ]
        indexes = [
            models.Index(
                fields=["deployment"],
                condition=~models.Q(status__in=INACTIVE),
                name="version_active",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.deployment.name} version {self.number}"

    @property
    def is_inactive(self) -> bool:
        return Status(self.status).is_inactive

    @property
    def cause(self) -> Cause | None:
        return Cause.from_json(self.cause_json)

    @property
    def specification(self) -> Specification:
        """The specification without its secret values: for pages and the API."""
        return Specification.from_json(self.specification_json)

    def specification_with_secrets(self) -> Specification:
        """Raises SecretUnreadableError when the key that they were encrypted with is gone."""
        return Specification.from_json(
            self.specification_json,
            secret_environment=Cipher(settings.INSTALLATION_KEYS.encryption).decrypt(self.encrypted_secrets),
        )
