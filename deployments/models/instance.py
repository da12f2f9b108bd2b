from django.db import models

from deployments.models.version import Version
from runtimes import observation
from runtimes.cause import Cause


class Instance(models.Model):
    """One replica of a version as last observed; kept after its end, so that its log and cause stay readable."""

    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="instances")
    uid = models.CharField(max_length=64, unique=True)
    name = models.CharField(max_length=120)
    # Where it runs, if that is not the cluster's first namespace.
    namespace = models.CharField(max_length=63, blank=True)
    generation = models.PositiveIntegerField()
    phase = models.CharField(max_length=16)
    address = models.CharField(max_length=100, blank=True)
    restarts = models.PositiveIntegerField(default=0)
    exit_code = models.IntegerField(null=True)
    # How often its program has ended, in its whole life and in a row without a span of serving in between.
    ends = models.PositiveIntegerField(default=0)
    crashes = models.PositiveIntegerField(default=0)
    steps = models.JSONField(default=list)
    cause_json = models.JSONField(null=True)
    started_at = models.DateTimeField()
    ready_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    # The log is stored up to this position; complete once the instance has ended.
    log_position = models.BigIntegerField(default=0)
    log_complete = models.BooleanField(default=False)

    class Meta:
        ordering = ["-started_at", "pk"]
        indexes = [models.Index(fields=["version", "ended_at"])]

    def __str__(self) -> str:
        return self.name

    @property
    def qualified_name(self) -> str:
        """As drivers know it."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def is_ready(self) -> bool:
        return self.phase == observation.READY

    @property
    def is_live(self) -> bool:
        return self.ended_at is None

    @property
    def cause(self) -> Cause | None:
        return Cause.from_json(self.cause_json)
