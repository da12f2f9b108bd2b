"""Nudges to open pages: "this object changed, read it again".

A nudge carries no data: the Channels layer drops messages at its capacity, so the data is always read from the
store. `seq` counts per group, so that a page which missed one notices and reads everything again.
"""

import logging
from typing import Any

import redis
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction

from common.stores import valkey

log = logging.getLogger(__name__)


def publish_on_commit(kind: str, object_id: int | str) -> None:
    """Tell every page that shows this object to read it again, once the change is committed."""
    transaction.on_commit(lambda: publish(kind, object_id))


def publish(kind: str, object_id: int | str) -> None:
    group = group_name(kind, object_id)
    try:
        seq = valkey().incr(f"slipway:seq:{group}")
        message: dict[str, Any] = {"type": "changed", "kind": kind, "id": str(object_id), "seq": seq}
        async_to_sync(get_channel_layer().group_send)(group, message)
    except (redis.RedisError, OSError) as error:
        # Pages poll while their socket is silent, so a lost nudge only costs time.
        log.warning("nudge for %s not sent: %s", group, error)


def group_name(kind: str, object_id: int | str) -> str:
    return f"live.{kind}.{object_id}"
