"""The writers of keys: one transaction each, with its audit row and the directory's next version."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import audit
from accounts.models import Organization, User
from apikeys.models import PREFIX, SHOWN, ApiKey
from apikeys.selectors import active_keys, openable_deployments, paying_organizations, visible_keys
from common import secret_token
from common.service_error import ForbiddenError, ServiceError
from deployments.models import Deployment
from deployments.services import quotas

MOST_ACTIVE_KEYS = 1000
LONGEST_GRACE = timedelta(days=30)


def create_key(
    user: User,
    organization: Organization,
    name: str,
    *,
    deployments: Sequence[Deployment] | None = None,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its secret, which can't be shown again. `deployments` of None: all that the user may use."""
    if not paying_organizations(user).filter(pk=organization.pk).exists():
        raise ForbiddenError("You may not call on this organization's account.", field="organization")
    if expires_at is not None and expires_at <= timezone.now():
        raise ServiceError("This moment has passed. Choose a later one, or none.", field="expires_at")
    if ApiKey.objects.filter(user=user, revoked_at=None).count() >= MOST_ACTIVE_KEYS:
        raise ServiceError(f"You have {MOST_ACTIVE_KEYS} keys. Revoke some that nobody uses.", code="too_many")
    secret = secret_token.new(PREFIX)
    with transaction.atomic():
        quotas.check_key(organization, active_keys(organization))
        key = ApiKey.objects.create(
            user=user,
            organization=organization,
            name=name,
            digest=secret_token.digest_of(secret),
            prefix=secret[:SHOWN],
            expires_at=expires_at,
        )
        _set_scope(key, deployments)
        audit.record(actor=user, action="create", thing=key, organization_id=organization.pk)
        _mark(key)
    return key, secret


def change_scope(key: ApiKey, deployments: Sequence[Deployment] | None, *, actor: User) -> None:
    """Convert the key: for chosen deployments, or with None for all that its user may use. His choice alone."""
    if key.user_id != actor.pk:
        raise ForbiddenError("Only the user of a key may change what it opens; you may revoke it.")
    before = f"{key.deployments.count()} chosen" if key.scope == ApiKey.Scope.DEPLOYMENTS else "all"
    with transaction.atomic():
        _set_scope(key, deployments)
        # Not their names: whoever reads the account's log need not know of other organizations' deployments.
        after = "all" if deployments is None else f"{len(deployments)} chosen"
        changes = {"deployments": [before, after]}
        audit.record(actor=actor, action="update", thing=key, organization_id=key.organization_id, changes=changes)
        _mark(key)


def rotate_key(key: ApiKey, grace: timedelta, *, actor: User) -> str:
    """A new secret for the same key; the one before is good for `grace` longer. Only the key's user gets to see it."""
    if key.user_id != actor.pk:
        raise ForbiddenError("Only the user of a key may rotate it; you may revoke it.")
    if not timedelta() <= grace <= LONGEST_GRACE:
        raise ServiceError(f"The old secret stays good for at most {LONGEST_GRACE.days} days.", field="grace")
    secret = secret_token.new(PREFIX)
    with transaction.atomic():
        locked = ApiKey.objects.select_for_update().get(pk=key.pk)
        if not locked.is_active:
            raise ServiceError(f"The key is {locked.state}. Create another one.", code="conflict")
        locked.previous_digest, locked.previous_until = locked.digest, timezone.now() + grace
        locked.digest, locked.prefix = secret_token.digest_of(secret), secret[:SHOWN]
        locked.save(update_fields=["previous_digest", "previous_until", "digest", "prefix"])
        audit.record(actor=actor, action="rotate", thing=locked, organization_id=locked.organization_id)
        _mark(key)
    return secret


def revoke_key(key: ApiKey, *, actor: User) -> None:
    """Refused from now on, both secrets of a rotation. Twice is once."""
    _check_may_change(key, actor)
    with transaction.atomic():
        if ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now(), previous_until=None):
            audit.record(actor=actor, action="revoke", thing=key, organization_id=key.organization_id)
            _mark(key)


def mark_used(minutes: dict[int, int]) -> None:
    """Note by key the minute in which it was last used, its start in seconds since the epoch. Time doesn't run back."""
    by_minute: dict[int, list[int]] = {}
    for key_id, minute in minutes.items():
        by_minute.setdefault(minute, []).append(key_id)
    for minute, key_ids in by_minute.items():
        # Its end: else a new key would have been used before it was made.
        at = min(datetime.fromtimestamp(minute + 60, UTC), timezone.now())
        keys = ApiKey.objects.filter(pk__in=key_ids)
        keys.filter(Q(last_used_at=None) | Q(last_used_at__lt=at)).update(last_used_at=at)


def _mark(key: ApiKey) -> None:
    ApiKey.mark_changed(ApiKey.objects.filter(pk=key.pk))


def _check_may_change(key: ApiKey, actor: User) -> None:
    if not visible_keys(actor).filter(pk=key.pk).exists():
        raise ForbiddenError("You may not change this key.")


def _set_scope(key: ApiKey, deployments: Sequence[Deployment] | None) -> None:
    if deployments is None:
        key.scope = ApiKey.Scope.USER
        key.deployments.clear()
    else:
        chosen = {item.pk for item in deployments}
        if not chosen:
            raise ServiceError("Choose at least one deployment.", field="deployments")
        if openable_deployments(key.user).filter(pk__in=chosen).count() != len(chosen):
            raise ForbiddenError("One of these deployments isn't there for the key's user.", field="deployments")
        key.scope = ApiKey.Scope.DEPLOYMENTS
        key.deployments.set(chosen)
    key.save(update_fields=["scope"])
