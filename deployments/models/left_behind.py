from django.db import models


class LeftBehind(models.Model):
    """What may still run somewhere after a person had it forgotten, so that it is known if its cluster comes back."""

    version_key = models.CharField(max_length=63, unique=True)
    cluster_name = models.CharField(max_length=63)
    namespace = models.CharField(max_length=63, blank=True)
    description = models.CharField(max_length=300)
    forgotten_by = models.CharField(max_length=150)
    forgotten_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.description
