"""The queue of asynchronous requests. The narrow rows that are claimed lie apart from payloads and results.

Written by statements of our own (statements.py), which gateways and dispatchers send without Django's models; so what
they leave out has its default in the database.
"""

from datetime import datetime

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from accounts.models import User
from async_inference import states
from deployments.models import Deployment


class AsyncRequest(models.Model):
    """One request that waits, runs, or has ended in exactly one of the final states.

    `fence` grows with each claim: what an earlier claimant says of it counts no more. `claimed_at` is when the present, or
    last, claim was made; `started_at` when an instance was first asked, known once that claim has ended. Only waiting counts
    against `expires_at`: what ran moves it on.
    """

    # In the order of their coming; `uid` is what everybody outside knows.
    uid = models.UUIDField(unique=True)
    # The rows outlive the deployment: whoever asks for a result later learns what became of it.
    deployment = models.ForeignKey(Deployment, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    api_id = models.CharField(max_length=130)
    organization_id = models.BigIntegerField()
    user_id = models.BigIntegerField()
    # 0 for a request from the console.
    key_id = models.BigIntegerField(db_default=0)
    priority = models.SmallIntegerField()
    state = models.CharField(max_length=10, db_default=states.QUEUED)
    created_at = models.DateTimeField(db_default=Now())
    queue_s = models.IntegerField()
    expires_at = models.DateTimeField()
    # When one that is tried again may run.
    due_at = models.DateTimeField(null=True)
    fence = models.IntegerField(db_default=0)
    lease_until = models.DateTimeField(null=True)
    claimed_at = models.DateTimeField(null=True)
    retries = models.SmallIntegerField()
    attempts = models.SmallIntegerField(db_default=0)
    # How often its dispatcher vanished.
    losses = models.SmallIntegerField(db_default=0)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    version_id = models.BigIntegerField(null=True)
    payload_bytes = models.IntegerField()
    result_bytes = models.IntegerField(db_default=0)
    status_code = models.SmallIntegerField(null=True)
    error_code = models.CharField(max_length=40, db_default="")
    error_message = models.TextField(db_default="")
    webhook_url = models.CharField(max_length=2000, db_default="")
    idempotency_key = models.CharField(max_length=255, db_default="")
    # Of method, path, content type and body: the same key must not stand for two requests.
    fingerprint = models.BinaryField()
    retry_of = models.UUIDField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["deployment", "priority", "id"], name="async_queue", condition=Q(state=states.QUEUED)),
            models.Index(fields=["due_at"], name="async_due", condition=Q(state=states.RETRYING)),
            models.Index(fields=["expires_at"], name="async_expiry", condition=Q(state__in=states.WAITING)),
            models.Index(fields=["deployment", "lease_until"], name="async_leases", condition=Q(state=states.RUNNING)),
            models.Index(fields=["finished_at"], name="async_finished", condition=Q(finished_at__isnull=False)),
            models.Index(fields=["deployment", "state", "-id"], name="async_of_deployment"),
            models.Index(fields=["organization_id"], name="async_unfinished", condition=Q(state__in=states.UNFINISHED)),
            models.Index(fields=["user_id", "-id"], name="async_of_user"),
            models.Index(fields=["user_id", "state", "-id"], name="async_of_user_by_state"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["user_id", "deployment", "idempotency_key"],
                condition=~Q(idempotency_key=""),
                name="async_idempotency_once",
            )
        ]

    def __str__(self) -> str:
        return self.uid.hex

    @property
    def shown_state(self) -> str:
        return states.shown(self.state)

    @property
    def begun_at(self) -> datetime | None:
        """When an instance was first asked, as far as that is known now."""
        return self.started_at or (self.claimed_at if self.state == states.RUNNING else None)

    @property
    def is_final(self) -> bool:
        return self.state in states.FINAL


class AsyncPayload(models.Model):
    """What is sent, to the letter. `headers` are the lines that are handed on, encrypted: they may hold others' secrets."""

    request = models.OneToOneField(AsyncRequest, models.CASCADE, primary_key=True, related_name="payload")
    method = models.CharField(max_length=16)
    path = models.TextField()
    headers = models.TextField()
    body = models.BinaryField()

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class AsyncResult(models.Model):
    """The answer of the instance, whatever its status."""

    request = models.OneToOneField(AsyncRequest, models.CASCADE, primary_key=True, related_name="result")
    content_type = models.CharField(max_length=255)
    body = models.BinaryField()

    def __str__(self) -> str:
        return self.content_type


class WebhookDelivery(models.Model):
    """The news of an end, until its receiver has it or 24 hours are over."""

    class State(models.TextChoices):
        PENDING = "pending", "Pending"
        DELIVERED = "delivered", "Delivered"
        FAILED = "failed", "Given up"

    request = models.OneToOneField(AsyncRequest, models.CASCADE, primary_key=True, related_name="delivery")
    # Nobody's receivers may take all the places.
    user_id = models.BigIntegerField()
    state = models.CharField(max_length=10, choices=State.choices, db_default=State.PENDING)
    attempts = models.IntegerField(db_default=0)
    due_at = models.DateTimeField(db_default=Now())
    since = models.DateTimeField(db_default=Now())
    fence = models.IntegerField(db_default=0)

    class Meta:
        indexes = [models.Index(fields=["due_at"], name="async_webhooks_due", condition=Q(state="pending"))]

    def __str__(self) -> str:
        return self.state


class WebhookAttempt(models.Model):
    """One try to deliver: the receiver's status, or why there was none."""

    delivery = models.ForeignKey(WebhookDelivery, models.CASCADE, related_name="tries")
    at = models.DateTimeField(db_default=Now())
    status_code = models.SmallIntegerField(null=True)
    error = models.CharField(max_length=300, db_default="")
    duration_ms = models.IntegerField()

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return str(self.status_code or self.error)


class WebhookSecret(models.Model):
    """How often a user has changed the secret that their webhooks are signed with; it is made from that (signature.py)."""

    user = models.OneToOneField(User, models.CASCADE, primary_key=True, related_name="+")
    generation = models.IntegerField(default=1)

    def __str__(self) -> str:
        return f"{self.user_id} {self.generation}"


class AsyncSettings(models.Model):
    """What an operator chose for one deployment's queue; without a row the defaults hold."""

    RESULT_DAYS = 7

    deployment = models.OneToOneField(Deployment, models.CASCADE, primary_key=True, related_name="async_settings")
    # How many at once on one instance; empty: what its engine takes.
    concurrency = models.PositiveSmallIntegerField(null=True, blank=True)
    result_days = models.PositiveSmallIntegerField(default=RESULT_DAYS)

    def __str__(self) -> str:
        return f"{self.deployment_id}"


class QueueClock(models.Model):
    """One row: up to when queue times are in the series, in seconds since the epoch."""

    measured_until = models.BigIntegerField()

    def __str__(self) -> str:
        return str(self.measured_until)


class AsyncBacklog(models.Model):
    """How many of one user's requests wait for a deployment, and how many bytes are kept of all of them, results included.
    Counted each ten seconds: what the bounds on new requests go by."""

    pk = models.CompositePrimaryKey("deployment_id", "user_id")
    deployment_id = models.BigIntegerField()
    user_id = models.BigIntegerField()
    waiting = models.IntegerField()
    kept_bytes = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.deployment_id} {self.user_id} {self.waiting}"
