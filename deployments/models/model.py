from django.conf import settings
from django.db import models

from accounts.models import Organization
from common.encryption import Cipher


class Model(models.Model):
    """What is deployed. Credentials for its source are stored encrypted and never shown again."""

    class Source(models.TextChoices):
        HUGGING_FACE = "hugging_face", "Hugging Face"
        STORAGE = "storage", "Storage namespace"
        NGC = "ngc", "NVIDIA NGC"
        CUSTOM = "custom", "Custom (path or none)"

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="models")
    name = models.CharField(max_length=120)
    description = models.TextField(blank=True, max_length=2000)
    source = models.CharField(max_length=16, choices=Source.choices, default=Source.CUSTOM)
    uri = models.CharField(max_length=500, blank=True)
    encrypted_credentials = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["organization", "name"], name="model_name_once_per_organization")
        ]

    def __str__(self) -> str:
        return self.name

    def credential_token(self) -> str:
        """The stored token of its source; "" without one. Raises SecretUnreadableError when its key is gone."""
        if not self.encrypted_credentials:
            return ""
        return Cipher(settings.INSTALLATION_KEYS.encryption).decrypt(self.encrypted_credentials).get("token", "")
