"""The metric tables. Partitioned by day (see the first migration); written by the gateway's recorder and the collector."""

from django.contrib.postgres.fields import ArrayField
from django.db import models

LATENCIES = ("end_to_end", "inference", "queue", "first_token")
OUTCOMES = ("completed", "failed", "cancelled", "rejected", "expired")


class RequestSeries(models.Model):
    """Requests that ended in one bucket: counts, sums in seconds, mergeable sketches.

    `tier` is the bucket's width in seconds. `instance_uid` is empty in the row merged over a version's instances.
    `source` tells writers apart (gateway and epoch), so that rows are written once and merged when read.
    """

    pk = models.CompositePrimaryKey("tier", "version_id", "instance_uid", "bucket", "source")
    bucket = models.DateTimeField()
    tier = models.SmallIntegerField()
    deployment_id = models.BigIntegerField()
    version_id = models.BigIntegerField()
    instance_uid = models.CharField(max_length=64)
    source = models.CharField(max_length=80)
    status_2xx = models.IntegerField()
    status_3xx = models.IntegerField()
    status_4xx = models.IntegerField()
    status_5xx = models.IntegerField()
    completed = models.IntegerField()
    failed = models.IntegerField()
    cancelled = models.IntegerField()
    rejected = models.IntegerField()
    expired = models.IntegerField()
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    end_to_end_sum = models.FloatField()
    end_to_end_max = models.FloatField()
    end_to_end_sketch = models.BinaryField()
    inference_sum = models.FloatField()
    inference_max = models.FloatField()
    inference_sketch = models.BinaryField()
    queue_sum = models.FloatField()
    queue_max = models.FloatField()
    queue_sketch = models.BinaryField()
    first_token_sum = models.FloatField()
    first_token_max = models.FloatField()
    first_token_sketch = models.BinaryField()

    class Meta:
        managed = False
        db_table = "monitoring_request_series"

    def __str__(self) -> str:
        return f"{self.version_id} {self.bucket} {self.tier}s"


class SystemSamples(models.Model):
    """One instance's samples of one hour, as arrays: a sample costs 18 bytes instead of a row's 92.

    `offsets` are seconds into the hour. CPU in cores, memory in bytes. The GPU arrays hold, sample after sample,
    one value per device of `gpu_indexes`; without devices `gpu_reason` says why.
    """

    pk = models.CompositePrimaryKey("instance_uid", "hour")
    hour = models.DateTimeField()
    instance_uid = models.CharField(max_length=64)
    version_id = models.BigIntegerField()
    cores = models.FloatField()
    memory_total = models.BigIntegerField()
    offsets = ArrayField(models.SmallIntegerField())
    cpu_user = ArrayField(models.FloatField())
    cpu_system = ArrayField(models.FloatField())
    memory_used = ArrayField(models.BigIntegerField())
    gpu_indexes = ArrayField(models.SmallIntegerField())
    gpu_utilization = ArrayField(models.FloatField())
    gpu_memory_used = ArrayField(models.BigIntegerField())
    gpu_memory_total = models.BigIntegerField()
    gpu_reason = models.TextField()

    class Meta:
        managed = False
        db_table = "monitoring_system_samples"

    def __str__(self) -> str:
        return f"{self.instance_uid} {self.hour}"


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
    estimated_tokens = models.BigIntegerField()
    # At the price of that minute; empty and 0 where it was free.
    currency = models.CharField(max_length=3)
    cost = models.DecimalField(max_digits=30, decimal_places=12)

    class Meta:
        managed = False
        db_table = "monitoring_usage_minute"

    def __str__(self) -> str:
        return f"{self.deployment_id} {self.minute}"


class UsageDay(models.Model):
    """The ledger summed by day (UTC), kept for good: what reports are made of."""

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
    estimated_tokens = models.BigIntegerField()
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

    def __str__(self) -> str:
        return self.id


class CpuReading(models.Model):
    """The collector's last cumulative reading per instance, so that rates survive its restarts."""

    instance_uid = models.CharField(max_length=64, primary_key=True)
    at = models.FloatField()
    since = models.FloatField()
    cpu_user_s = models.FloatField()
    cpu_system_s = models.FloatField()

    def __str__(self) -> str:
        return self.instance_uid
