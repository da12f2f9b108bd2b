"""What changes below this app and concerns the gateways all the same: who belongs where, and who may do everything.

`accounts` doesn't know of the directory, so it is told from here, in the same transaction as the change.
"""

from typing import Any

from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from accounts.models import Member, User
from deployments.models import DirectoryVersion

# What of a user doesn't matter to a gateway, and changes at each sign-in.
_NO_MATTER = frozenset({"last_login"})


@receiver([post_save, post_delete], sender=Member)
def membership_changed(**kwargs: Any) -> None:
    _bump()


@receiver(post_save, sender=User)
def user_changed(update_fields: frozenset[str] | None, created: bool, **kwargs: Any) -> None:
    if not created and not (update_fields and update_fields <= _NO_MATTER):
        _bump()


def _bump() -> None:
    with transaction.atomic():
        DirectoryVersion.bump()
