"""Changes the installation's keys while everything runs. No request is refused meanwhile, and nothing stored is lost.

Each process looks at the file of keys once a second. So new keys are first only made known; when all processes know them they begin to
sign and encrypt; when all do that, what is stored is brought up to them. The former keys stay until someone drops them: links that were
sent and webhooks' receivers still go by those.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from allauth.mfa.models import Authenticator
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import models, transaction
from django.utils import timezone

from accounts import audit
from async_inference.models import AsyncPayload
from common.database_lock import try_lock
from common.encryption import Cipher, SecretUnreadableError
from common.installation_keys import LOOK_S, PURPOSES, FixedKeys, InstallationKeys, KeysFile
from common.service_error import ServiceError
from dashboard import session_keys
from dashboard.own_keys import new_key, save
from deployments.models import Cluster, DirectoryVersion, Installation, Model, Version

# Where stored secrets are. tests/control/test_key_rotation.py looks for columns that are missing here.
ENCRYPTED: tuple[tuple[type[models.Model], str], ...] = (
    (Model, "encrypted_credentials"),
    (Cluster, "encrypted_kubeconfig"),
    (Version, "encrypted_secrets"),
    (AsyncPayload, "headers"),
)
SPREAD_S = 3 * LOOK_S
AT_ONCE = 500


@dataclass
class Report:
    """How much was brought up to the newest keys, and what no key can read."""

    secrets: int = 0
    sessions: int = 0
    unreadable: list[str] = field(default_factory=list)


def rotate(keys: KeysFile, *, sleep: Callable[[float], None] = time.sleep) -> Report:
    """Make a new key for each purpose, put them in force and bring what is stored up to them. Raises ServiceError."""
    with _alone(keys):
        former = FixedKeys.read(keys.path)
        new = {purpose: new_key() for purpose in PURPOSES}
        save(keys.path, FixedKeys(**{purpose: (*getattr(former, purpose), new[purpose]) for purpose in PURPOSES}))
        sleep(SPREAD_S)
        save(keys.path, FixedKeys(**{purpose: (new[purpose], *getattr(former, purpose)) for purpose in PURPOSES}))
        sleep(SPREAD_S)
        report = bring_up(FixedKeys.read(keys.path))
        audit.record(actor=None, action="rotate_keys", thing=_installation())
        return report


def drop_former(keys: KeysFile) -> Report:
    """Forget all keys but the newest, when nothing is stored by the others any more. Raises ServiceError."""
    with _alone(keys):
        known = FixedKeys.read(keys.path)
        report = bring_up(known)
        save(keys.path, FixedKeys(**{purpose: getattr(known, purpose)[:1] for purpose in PURPOSES}))
        audit.record(actor=None, action="drop_former_keys", thing=_installation())
        return report


def bring_up(keys: InstallationKeys) -> Report:
    """Encrypt and sign with the newest keys whatever is stored by another one. It may be cut off and begun anew at any moment."""
    session_keys.use(keys.sessions)
    report = Report()
    cipher = Cipher(keys.encryption)
    for model, column in ENCRYPTED:
        _renew_column(model, column, cipher, report)
    _renew_second_factors(cipher, report)
    if report.secrets:
        # Gateways keep kubeconfigs as they are stored, on their disk too.
        DirectoryVersion.bump()
    for session in Session.objects.filter(expire_date__gt=timezone.now()).iterator(AT_ONCE):
        report.sessions += _renew_session(session)
    return report


def _renew_column(model: type[models.Model], column: str, cipher: Cipher, report: Report) -> None:
    last = 0
    rows = model._default_manager.exclude(**{column: ""}).order_by("pk")
    while batch := list(rows.filter(pk__gt=last).values_list("pk", column)[:AT_ONCE]):
        for pk, stored in batch:
            try:
                renewed = cipher.renew(stored)
            except SecretUnreadableError:
                report.unreadable.append(f"{model._meta.verbose_name} {pk}")
                continue
            if renewed != stored:
                # Only as it was read: who changes it meanwhile has encrypted it with the newest key.
                report.secrets += model._default_manager.filter(pk=pk, **{column: stored}).update(**{column: renewed})
        last = batch[-1][0]


def _renew_second_factors(cipher: Cipher, report: Report) -> None:
    """allauth keeps them as JSON: {"secret": …} of an app, {"seed": …} of recovery codes."""
    for item in Authenticator.objects.iterator(AT_ONCE):
        renewed = {name: value for name, value in item.data.items() if name in ("secret", "seed")}
        try:
            renewed = {name: cipher.renew(value) for name, value in renewed.items()}
        except SecretUnreadableError:
            report.unreadable.append(f"second factor {item.pk}")
            continue
        if renewed != {name: item.data[name] for name in renewed}:
            # Which recovery codes were used may change meanwhile: nothing but these values is written.
            with transaction.atomic():
                locked = Authenticator.objects.select_for_update().filter(pk=item.pk).first()
                if locked is not None:
                    locked.data |= renewed
                    locked.save(update_fields=["data"])
                    report.secrets += 1


def _renew_session(session: Session) -> int:
    values = session.get_decoded()
    if not values:
        return 0
    return Session.objects.filter(pk=session.pk, session_data=session.session_data).update(
        session_data=SessionStore().encode(values)
    )


@contextmanager
def _alone(keys: KeysFile) -> Iterator[None]:
    # A file of someone else's could be read by none of the processes that run.
    if os.stat(keys.path).st_uid != os.geteuid():
        raise ServiceError(f"{keys.path} belongs to another user. Run this as the user that Slipway runs as.")
    if not os.access(keys.path.parent, os.W_OK):
        raise ServiceError(
            f"{keys.path.parent} can't be written to. Change the file where it comes from, in two steps (docs/security.md)."
        )
    with try_lock("rotate-keys") as held:
        if not held:
            raise ServiceError("Keys are being rotated already.")
        yield


def _installation() -> Installation:
    return Installation.objects.get_or_create(id=1)[0]
