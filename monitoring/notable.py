"""Requests that may explain why a gateway's count differs from the engine's: each is kept for a month, the largest first."""

from datetime import UTC, datetime
from typing import Any

from django.db import connection

TABLE = "monitoring_notable_request"
COLUMNS = (
    "at", "deployment_id", "version_id", "instance_uid", "organization_id", "key_id", "request_id", "why", "input_tokens",
    "output_tokens", "seconds",
)  # fmt: skip


def add(rows: list[dict[str, Any]]) -> None:
    """Within the transaction that notes their batch; `at` in seconds since the epoch."""
    if not rows:
        return
    values = [[datetime.fromtimestamp(row["at"], UTC), *(row[name] for name in COLUMNS[1:])] for row in rows]
    with connection.cursor() as cursor:
        places = ", ".join(["%s"] * len(COLUMNS))
        cursor.executemany(f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}) VALUES ({places})", values)  # noqa: S608 (our own constants)
