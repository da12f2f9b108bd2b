"""Attempts to connect that leave nothing behind when they fail."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg


@contextmanager
def closed_on_failure() -> Iterator[None]:
    """Around `connect`: close the socket of an attempt that fails.

    The half-open connection lies in the frames of the error, which refer to each other in a circle: in a process that
    waits it would stay open for minutes. A server that hung for ten of them was found with all its places taken by
    such sockets when it went on, and let nobody in for another minute.
    """
    try:
        yield
    except psycopg.Error as error:
        traceback.clear_frames(error.__traceback__)
        raise
