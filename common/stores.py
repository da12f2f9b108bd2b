"""This process's connections to Valkey. There are two of them, so that what is large never pushes out what counts.

The first keeps limits' counters, throttles, nudges and Celery's queue, and refuses writes when it is full. The second, *scratch*, keeps
live log tails, frames of tests and open buckets of charts, and lets the oldest go: all of that is stored elsewhere or can be read anew.
"""

from functools import lru_cache

import redis
from django.conf import settings


@lru_cache(maxsize=1)
def valkey() -> redis.Redis:
    return _connected(settings.REDIS_URL)


@lru_cache(maxsize=1)
def scratch() -> redis.Redis:
    return _connected(settings.SCRATCH_REDIS_URL)


def _connected(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=2)
