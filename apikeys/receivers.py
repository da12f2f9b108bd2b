"""What changes below this app and decides what keys open: who belongs where, and who may do everything.

`accounts` doesn't know of keys, so it is told from here, in the same transaction as the change.
"""

from typing import Any

from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from accounts.models import Member, User
from apikeys.models import ApiKey

# What of a user doesn't matter to a gateway, and changes at each sign-in.
_NO_MATTER = frozenset({"last_login"})


@receiver([post_save, post_delete], sender=Member)
def membership_changed(instance: Member, **kwargs: Any) -> None:
    _mark_keys_of(instance.user_id)


@receiver(post_save, sender=User)
def user_changed(instance: User, update_fields: frozenset[str] | None, created: bool, **kwargs: Any) -> None:
    if not created and not (update_fields and update_fields <= _NO_MATTER):
        _mark_keys_of(instance.pk)


def _mark_keys_of(user_id: int) -> None:
    with transaction.atomic():
        ApiKey.mark_changed(ApiKey.objects.filter(user=user_id))
