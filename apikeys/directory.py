"""What gateways read of keys: the changed ones, and a fingerprint of all by which they know that they have missed none."""

from collections.abc import Iterator
from typing import Any

from django.db import connection

CHUNK = 5000
# Who has left the organization on whose account a key calls, calls no more.
_GOOD = """key.revoked_at IS NULL AND person.is_active AND (person.is_operator OR EXISTS (
    SELECT 1 FROM accounts_member WHERE user_id = key.user_id AND organization_id = key.organization_id))"""
# One row per key, dead ones too: what a gateway must forget it must be told. `mark` is a hash of all the rest.
_ROWS = """
    SELECT *, hashtextextended(row_text, 0) AS mark FROM (
        SELECT *, (rows.*)::text AS row_text FROM (
            SELECT key.id, key.user_id, key.organization_id, encode(key.digest, 'hex') AS digest,
                extract(epoch FROM key.expires_at)::float8 AS expires_at,
                encode(key.previous_digest, 'hex') AS previous_digest,
                extract(epoch FROM key.previous_until)::float8 AS previous_until,
                person.is_operator,
                ARRAY(SELECT organization_id FROM accounts_member WHERE user_id = key.user_id ORDER BY 1) AS organizations,
                CASE WHEN key.scope = 'deployments' THEN
                    ARRAY(SELECT deployment_id FROM apikeys_apikey_deployments WHERE apikey_id = key.id ORDER BY 1)
                END AS deployments,
                {good} AS is_live
            FROM apikeys_apikey key JOIN accounts_user person ON person.id = key.user_id
            WHERE {which}
        ) rows
    ) marked
"""
FIELDS = (
    "id", "user_id", "organization_id", "digest", "expires_at", "previous_digest", "previous_until", "is_operator",
    "organizations", "deployments", "is_live", "mark",
)  # fmt: skip


def rows(*, changed_since: int | None = None) -> Iterator[list[Any]]:
    """Keys as FIELDS: those changed behind that version of the directory, or all that are good."""
    which = _GOOD if changed_since is None else "key.changed_version > %s"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(FIELDS)} FROM ({_ROWS.format(which=which, good=_GOOD)}) read ORDER BY id",  # noqa: S608
            [] if changed_since is None else [changed_since],
        )
        while chunk := cursor.fetchmany(CHUNK):
            for row in chunk:
                yield list(row)


def fingerprint() -> tuple[int, int]:
    """(how many keys are good, all their marks xored)."""
    with connection.cursor() as cursor:
        good = _ROWS.format(which=_GOOD, good=_GOOD)
        cursor.execute(f"SELECT count(*), coalesce(bit_xor(mark), 0) FROM ({good}) read")  # noqa: S608
        count, marks = cursor.fetchone()
        return count, marks


def count() -> int:
    """How many keys are good: cheap enough to be asked at each change, and tells of deleted users and organizations."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM apikeys_apikey key JOIN accounts_user person ON person.id = key.user_id WHERE {_GOOD}"  # noqa: S608
        )
        return int(cursor.fetchone()[0])
