"""Waking Celery. The database is the truth: a task only says "look now", so a lost one costs a sweep's wait."""

import logging

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

log = logging.getLogger(__name__)


def enqueue_on_commit(task: str, *args: int | str) -> None:
    """Send the task by name once the surrounding transaction is committed."""
    transaction.on_commit(lambda: enqueue(task, *args))


def enqueue(task: str, *args: int | str) -> None:
    try:
        current_app.send_task(task, args=args, expires=60, retry=False)
    except (OperationalError, OSError) as error:
        log.warning("%s%r not enqueued, the next sweep will do it: %s", task, args, error)
