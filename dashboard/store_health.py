"""How full the stores are, for the Administration page."""

from dataclasses import dataclass
from urllib.parse import urlsplit

import redis
from django.conf import settings
from django.db import connection

from common.stores import scratch, valkey

# From which share on a store counts as nearly full.
NEARLY = 0.9
# What each must do when it is full (common/stores.py).
KEEPS, LETS_GO = "noeviction", "allkeys-lru"


@dataclass(frozen=True)
class Store:
    """`used` and `most` in bytes, 0 where there is no bound. `warning` is what an operator should do, mostly empty."""

    name: str
    purpose: str
    used: int
    most: int
    warning: str = ""

    @property
    def percent(self) -> int:
        return min(100, round(100 * self.used / self.most)) if self.most else 0


def stores() -> list[Store]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        size = int(cursor.fetchone()[0])
    found = [Store("PostgreSQL", "Configuration, state, logs, metrics and usage", size, 0)]
    is_one = urlsplit(settings.REDIS_URL) == urlsplit(settings.SCRATCH_REDIS_URL)
    found.append(_store("Valkey", "Limits, throttles, wake-ups and live pages", valkey(), "" if is_one else KEEPS))
    if not is_one:
        found.append(
            _store("Scratch Valkey", "Live log tails, frames of tests, open buckets of charts", scratch(), LETS_GO)
        )
    return found


def _store(name: str, purpose: str, server: redis.Redis, policy: str) -> Store:
    """`policy` is what it should have; empty where one server does everything."""
    try:
        told = server.info()
        errors = server.info("errorstats")
    except redis.RedisError as error:
        return Store(name, purpose, 0, 0, f"It does not answer: {error}.")
    used, most = int(told["used_memory"]), int(told["maxmemory"])
    return Store(name, purpose, used, most, _warning(told, errors, used, most, policy))


def _warning(told: dict[str, object], errors: dict[str, object], used: int, most: int, policy: str) -> str:
    is_nearly_full = bool(most) and used > NEARLY * most
    if not policy:
        return "It does everything. Set SLIPWAY_SCRATCH_REDIS_URL to another one, so that log tails never push out limits and throttles."
    if told["maxmemory_policy"] != policy:
        return f"Its maxmemory-policy is {told['maxmemory_policy']}. Set {policy}."
    if policy == KEEPS and is_nearly_full:
        return "It is nearly full: soon it takes nothing new. Raise its maxmemory."
    if policy == KEEPS and "errorstat_OOM" in errors:
        return "It was full and has refused writes since it started. Raise its maxmemory."
    return ""
