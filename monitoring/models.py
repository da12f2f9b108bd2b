"""The metric tables, written by the gateway's recorder and the collector. The series themselves are in series.py."""

from django.contrib.postgres.fields import ArrayField
from django.db import models


class MeteredInstance(models.Model):
    """An instance in the metrics, which outlive it: its number in the series, and why a figure of it is missing."""

    number = models.AutoField(primary_key=True)
    uid = models.CharField(max_length=64, unique=True)
    version_id = models.BigIntegerField(db_index=True)
    name = models.CharField(max_length=120, blank=True)
    # Empty where the figures are there.
    gpu_reason = models.TextField(blank=True)
    engine_reason = models.TextField(blank=True)
    usage_reason = models.TextField(blank=True, db_default="")

    def __str__(self) -> str:
        return self.name or self.uid


class UsageMinute(models.Model):
    """The ledger: who used what in one minute. User and key of 0 mean nobody known ("public")."""

    pk = models.CompositePrimaryKey("deployment_id", "organization_id", "user_id", "key_id", "source", "minute")
    minute = models.DateTimeField()
    deployment_id = models.BigIntegerField()
    organization_id = models.BigIntegerField()
    user_id = models.BigIntegerField()
    key_id = models.BigIntegerField()
    source = models.CharField(max_length=16)
    key_label = models.CharField(max_length=120)
    completed = models.BigIntegerField()
    failed = models.BigIntegerField()
    cancelled = models.BigIntegerField()
    rejected = models.BigIntegerField()
    expired = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    cached_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField()
    audio_tokens = models.BigIntegerField()
    search_units = models.BigIntegerField()
    estimated_tokens = models.BigIntegerField()
    estimated_untold = models.BigIntegerField()
    estimated_cancelled = models.BigIntegerField()
    estimated_failed = models.BigIntegerField()
    # At the price of that minute; empty and 0 where it was free.
    currency = models.CharField(max_length=3)
    cost = models.DecimalField(max_digits=30, decimal_places=12)

    class Meta:
        managed = False
        db_table = "monitoring_usage_minute"

    def __str__(self) -> str:
        return f"{self.deployment_id} {self.minute}"


class UsageDay(models.Model):
    """The ledger summed by day, in the time zone that its organization had then, kept for good: what reports are made of."""

    pk = models.CompositePrimaryKey(
        "deployment_id", "organization_id", "user_id", "key_id", "source", "currency", "day"
    )
    day = models.DateField()
    deployment_id = models.BigIntegerField()
    organization_id = models.BigIntegerField()
    user_id = models.BigIntegerField()
    key_id = models.BigIntegerField()
    source = models.CharField(max_length=16)
    currency = models.CharField(max_length=3)
    key_label = models.CharField(max_length=120)
    completed = models.BigIntegerField()
    failed = models.BigIntegerField()
    cancelled = models.BigIntegerField()
    rejected = models.BigIntegerField()
    expired = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    cached_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField()
    audio_tokens = models.BigIntegerField()
    search_units = models.BigIntegerField()
    estimated_tokens = models.BigIntegerField()
    estimated_untold = models.BigIntegerField()
    estimated_cancelled = models.BigIntegerField()
    estimated_failed = models.BigIntegerField()
    cost = models.DecimalField(max_digits=30, decimal_places=12)

    class Meta:
        managed = False
        db_table = "monitoring_usage_day"

    def __str__(self) -> str:
        return f"{self.deployment_id} {self.day}"


class DeploymentName(models.Model):
    """What a deployment in the ledger is called, and whose it is: its rows outlive it."""

    deployment_id = models.BigIntegerField(primary_key=True)
    organization_id = models.BigIntegerField(db_index=True)
    api_id = models.CharField(max_length=130)
    model_id = models.BigIntegerField()
    model = models.CharField(max_length=200)
    labels = models.JSONField(default=dict)

    def __str__(self) -> str:
        return self.api_id


class Books(models.Model):
    """Of one gateway and deployment: how many requests were admitted since ever, and how each of them ended.

    `in_flight` is the number of living requests at the end of the gateway's last batch, counted from the requests
    themselves. Admitted = ended + in flight, always; anything else is a fault of ours and raises an alarm.
    """

    gateway = models.CharField(max_length=80)
    deployment_id = models.BigIntegerField()
    admitted = models.BigIntegerField()
    completed = models.BigIntegerField()
    failed = models.BigIntegerField()
    cancelled = models.BigIntegerField()
    rejected = models.BigIntegerField()
    expired = models.BigIntegerField()
    in_flight = models.BigIntegerField()
    updated_at = models.DateTimeField()

    class Meta:
        db_table = "monitoring_books"
        constraints = [models.UniqueConstraint(fields=["gateway", "deployment_id"], name="books_once_per_gateway")]

    def __str__(self) -> str:
        return f"{self.gateway} {self.deployment_id}"


class IngestedBatch(models.Model):
    """Ids of the gateway's batches that are in the tables: a batch that comes twice is counted once."""

    id = models.CharField(max_length=100, primary_key=True)
    at = models.DateTimeField(auto_now_add=True)
    # By this the fresh rows name it: shorter. From a sequence.
    number = models.BigIntegerField(unique=True)
    is_rolled_up = models.BooleanField(default=False)

    def __str__(self) -> str:
        return self.id


class CpuReading(models.Model):
    """The collector's last cumulative reading per instance, so that rates survive its restarts.

    `at` is by whatever clock the reading came with: rates need differences only.
    """

    instance_uid = models.CharField(max_length=64, primary_key=True)
    at = models.FloatField()
    since = models.FloatField()
    cpu_user_s = models.FloatField()
    cpu_system_s = models.FloatField()
    # What the engine had counted then; empty where it doesn't tell.
    prefix_hits = models.FloatField(null=True)
    prefix_queries = models.FloatField(null=True)
    input_tokens = models.FloatField(null=True)
    output_tokens = models.FloatField(null=True)
    # When they were told, in seconds since the epoch.
    tokens_at = models.FloatField(null=True)

    def __str__(self) -> str:
        return self.instance_uid


class EngineHour(models.Model):
    """Tokens that a version's engines have counted themselves in one hour (UTC). `leaves_cached_out`: of prompts only those that
    they had to compute."""

    hour = models.DateTimeField()
    deployment_id = models.BigIntegerField()
    version_id = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    leaves_cached_out = models.BooleanField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["version_id", "hour"], name="engine_hour_once_per_version")]
        indexes = [models.Index(fields=["deployment_id", "hour"])]

    def __str__(self) -> str:
        return f"{self.deployment_id} {self.hour}"


class FleetMinute(models.Model):
    """All deployments in one minute (seconds since the epoch): light columns, and the requests' frame. See fleet.py."""

    minute = models.BigIntegerField(primary_key=True)
    columns = models.BinaryField()
    requests = models.BinaryField()

    def __str__(self) -> str:
        return str(self.minute)


class RequestTotals(models.Model):
    """What a deployment has served since ever: sums that only grow, as other monitoring systems want them.

    `counts` as request_frame.COUNTS; `sums` in seconds as LATENCIES; `buckets` per latency how many durations are at
    most each of totals.BOUNDS, and all.
    """

    deployment_id = models.BigIntegerField(primary_key=True)
    counts = ArrayField(models.BigIntegerField())
    sums = ArrayField(models.FloatField())
    buckets = ArrayField(models.BigIntegerField())

    def __str__(self) -> str:
        return str(self.deployment_id)
