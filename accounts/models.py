"""Who there is: users, organizations, membership, and the record of who changed what."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.crypto import salted_hmac


class User(AbstractUser):
    """A person. An operator is platform staff: sees and manages everything in the Operations Console."""

    is_operator = models.BooleanField(default=False)
    # Raised to end all sessions of this user.
    session_generation = models.PositiveIntegerField(default=0)

    class Meta(AbstractUser.Meta):
        # Signing in doesn't tell upper from lower case.
        constraints = [models.UniqueConstraint(Lower("username"), name="username_without_case")]

    def __str__(self) -> str:
        return self.get_full_name() or self.username

    def get_session_auth_hash(self) -> str:
        """Changes with the password and when all sessions shall end, and not with SECRET_KEY: sessions have random ids and are
        stored here, so that key protects nothing of theirs.

        Django would give each session another id when the key changes, which signs out who sends two requests at once.
        """
        depends_on = f"{self.session_generation}:{self.password}"
        return salted_hmac("slipway.session", depends_on, secret="session", algorithm="sha256").hexdigest()  # noqa: S106 (above)

    def get_session_auth_fallback_hash(self) -> Iterator[str]:
        """None: the upgrade to this hash has rewritten the sessions that there were (migration 0007)."""
        yield from ()


class BrowserSession(models.Model):
    """One browser in which a user is signed in, beside Django's session, which dies with it (browser_sessions.py)."""

    session_key = models.CharField(max_length=40, unique=True)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="browser_sessions")
    address = models.CharField(max_length=45)
    browser = models.CharField(max_length=300)
    created_at = models.DateTimeField(auto_now_add=True)
    seen_at = models.DateTimeField()

    class Meta:
        ordering = ["-seen_at"]

    def __str__(self) -> str:
        return f"{self.user} at {self.address}"

    @property
    def browser_label(self) -> str:
        """“Firefox on Linux”, or what the browser says about itself."""
        program = next((name for mark, name in _PROGRAMS if mark in self.browser), "")
        system = next((name for mark, name in _SYSTEMS if mark in self.browser), "")
        if program and system:
            return f"{program} on {system}"
        return program or self.browser[:60] or "Unknown"


# In this order: browsers name those that they come from, too.
_PROGRAMS = (("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"), ("curl/", "curl"))  # fmt: skip
_SYSTEMS = (("Android", "Android"), ("iPhone", "iPhone"), ("iPad", "iPad"), ("Windows", "Windows"), ("Mac OS X", "macOS"), ("Linux", "Linux"))  # fmt: skip


class Organization(models.Model):
    """A tenant. `name` is part of API ids, `title` is for people."""

    name = models.CharField(max_length=63, unique=True)
    title = models.CharField(max_length=120, blank=True)
    # Whose midnight ends a day of its bills, as Europe/Berlin. Days that are booked stay as they are.
    time_zone = models.CharField(max_length=64, default="UTC", db_default="UTC")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.title or self.name


class Member(models.Model):
    """A user's place in an organization."""

    class Role(models.TextChoices):
        ADMIN = "admin", "Admin"
        MEMBER = "member", "Member"

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="members")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.MEMBER)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["organization", "user"], name="member_once_per_organization")]

    def __str__(self) -> str:
        return f"{self.user} in {self.organization} ({self.role})"


class Invitation(models.Model):
    """A link by which one person joins an organization, once; only the digest of its secret is stored."""

    LIFETIME = timedelta(days=7)

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="invitations")
    role = models.CharField(max_length=16, choices=Member.Role.choices, default=Member.Role.MEMBER)
    # For whom, in the inviter's words.
    label = models.CharField(max_length=120)
    digest = models.BinaryField(max_length=32, unique=True)
    created_by = models.ForeignKey(User, on_delete=models.CASCADE, related_name="invitations")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.label} as {self.role}"

    @property
    def is_open(self) -> bool:
        return self.accepted_at is None and self.expires_at > timezone.now()


class ApiToken(models.Model):
    """A token for the management API, of one user; only its SHA-256 digest is stored."""

    class Scope(models.TextChoices):
        READ = "read", "Read only"
        DEPLOY = "deploy", "Read and change"

    PREFIX = "slt_"
    LIFETIME_DAYS = 90

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")
    label = models.CharField(max_length=120)
    digest = models.BinaryField(max_length=32, unique=True)
    prefix = models.CharField(max_length=12)
    scope = models.CharField(max_length=16, choices=Scope.choices, default=Scope.DEPLOY)
    # For how long it is good when it is made or renewed.
    lifetime_days = models.PositiveIntegerField(default=LIFETIME_DAYS)
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.label} ({self.prefix}…)"

    @property
    def has_expired(self) -> bool:
        return self.expires_at <= timezone.now()


class AuditEntry(models.Model):
    """One change by one actor. `changes` maps a field to [old, new]; secret values never enter it."""

    at = models.DateTimeField(auto_now_add=True, db_index=True)
    actor = models.ForeignKey(User, on_delete=models.SET_NULL, null=True)
    # What the actor was called then: the row outlives the user.
    actor_label = models.CharField(max_length=150)
    organization = models.ForeignKey(Organization, on_delete=models.SET_NULL, null=True)
    action = models.CharField(max_length=64)
    object_type = models.CharField(max_length=32)
    object_id = models.CharField(max_length=64)
    object_label = models.CharField(max_length=200)
    changes = models.JSONField(default=dict)
    # The address that the request came from; empty for what Slipway does by itself.
    source = models.CharField(max_length=45, blank=True)

    class Meta:
        ordering = ["-at"]
        indexes = [models.Index(fields=["organization", "-id"])]

    def __str__(self) -> str:
        return f"{self.actor_label}: {self.action} {self.object_type} {self.object_label}"

    @property
    def action_label(self) -> str:
        return self.action.replace("_", " ")

    @property
    def object_type_label(self) -> str:
        return AUDITED.get(self.object_type, self.object_type)

    @property
    def changed(self) -> list[tuple[str, str, str]]:
        """(field, old, new) as people read them."""
        read = [(name.replace("_", " "), _readable(old), _readable(new)) for name, old, new in _flat(self.changes)]
        return sorted(item for item in read if item[1] != item[2])


# What entries are about, by the kind that is stored.
AUDITED = {
    "deployment": "Deployment", "version": "Version", "model": "Model", "endpoint": "Endpoint", "cluster": "Cluster",
    "apikey": "API key", "apitoken": "API token", "user": "User", "organization": "Organization",
    "member": "Member", "invitation": "Invitation",
}  # fmt: skip


def _flat(changes: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(field, old, new); what has parts by each part."""
    for name, (old, new) in changes.items():
        if isinstance(new, dict):
            before = old if isinstance(old, dict) else {}
            yield from ((f"{name} {part}", before.get(part), new.get(part)) for part in {**before, **new})
        else:
            yield name, old, new


def _readable(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
