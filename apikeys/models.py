"""Keys by which programs call deployments. Only digests are stored: whoever reads the database can't call anything."""

from datetime import datetime

from django.db import models
from django.utils import timezone

from accounts.models import Organization, User
from deployments.models import Deployment, DirectoryVersion

PREFIX = "slk_"
SHOWN = 10


class ApiKey(models.Model):
    """A key of one user, who calls with it on one organization's account.

    It never opens more than its user may use. With scope *deployments* it opens those alone; that these are none,
    because they were deleted, doesn't make it one for all.
    """

    class Scope(models.TextChoices):
        USER = "user", "All deployments that its user may use"
        DEPLOYMENTS = "deployments", "Only the chosen deployments"

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_keys")
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=120)
    scope = models.CharField(max_length=16, choices=Scope.choices, default=Scope.USER)
    deployments = models.ManyToManyField(Deployment, related_name="api_keys", blank=True)
    digest = models.BinaryField(max_length=32, unique=True)
    prefix = models.CharField(max_length=16)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)
    # After a rotation the secret before is good for a while, so that programs can be changed one by one.
    previous_digest = models.BinaryField(max_length=32, null=True)
    previous_until = models.DateTimeField(null=True)

    # The directory's version that last changed what the key opens: gateways read what lies behind theirs.
    changed_version = models.BigIntegerField(default=0, db_index=True)

    class Meta:
        ordering = ["-created_at", "-pk"]
        indexes = [models.Index(fields=["user", "-created_at"])]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @property
    def state(self) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= timezone.now() else "active"

    @property
    def is_active(self) -> bool:
        return self.state == "active"

    @property
    def retiring_until(self) -> datetime | None:
        """Until when the secret before the last rotation is good, while it is."""
        return self.previous_until if self.previous_until and self.previous_until > timezone.now() else None

    @staticmethod
    def mark_changed(keys: models.QuerySet["ApiKey"]) -> None:
        """Take the directory's next version for these keys. The last statements of a changing transaction.

        The keys' rows are locked before the version's, in one order, whoever changes them: else two wait for each other.
        """
        list(keys.select_for_update().order_by("pk").values_list("pk"))
        keys.update(changed_version=DirectoryVersion.bump())
