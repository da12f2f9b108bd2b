"""Queues asynchronous requests, and tells of them. The third file that touches the control plane: its queue's statements.

Its connections are on the gateway's loop: an ordinary request never waits for them.
"""

import asyncio
import hashlib
import logging
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import orjson
import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from async_inference import options, statements, states
from async_inference.options import InvalidOptionError
from common.addresses import IpNetwork
from common.encryption import Cipher
from common.installation_keys import InstallationKeys
from gateway.access.callers import Caller
from gateway.core import QueueAnswer
from gateway.errors import GatewayError
from gateway.http.framing import RequestHead
from gateway.routing.target import Target

log = logging.getLogger(__name__)

WAIT_S = 5.0
CONNECTIONS = 6
# Of those that store: one organization leaves some to the others, however long it waits for its own quota.
CONNECTIONS_EACH = 4
MOST_LISTED = 100
_PATH = "/async/requests"


def _pool(database_url: str, name: str, wait_s: float) -> AsyncConnectionPool:
    return AsyncConnectionPool(
        database_url,
        kwargs={"autocommit": True, "row_factory": dict_row, "connect_timeout": 5, "options": "-c statement_timeout=10000"},
        min_size=1, max_size=CONNECTIONS, timeout=wait_s, max_idle=60, reconnect_timeout=10, open=False,
        check=AsyncConnectionPool.check_connection, name=name,
    )  # fmt: skip


@dataclass(frozen=True)
class QueueBounds:
    """Of one deployment's queue: how many may wait and how large their bodies may be together; the networks
    inside that webhooks may call, over http too."""

    most_waiting: int
    most_bytes: int
    webhook_networks: Sequence[IpNetwork] = ()


class AsyncRequests:
    """Two pools of connections; `open` returns at once, whether the database is there or not."""

    def __init__(
        self, database_url: str, keys: InstallationKeys, bounds: QueueBounds, *, wait_s: float = WAIT_S
    ) -> None:
        self._bounds, self._keys = bounds, keys
        # Apart: however many ask how far theirs are, new ones are taken.
        self._pool, self._questions = (_pool(database_url, name, wait_s) for name in ("async_submit", "async_control"))
        self._wait_s = wait_s
        self._turns: dict[int, asyncio.Semaphore] = {}

    async def open(self) -> None:
        await self._pool.open(wait=False)
        await self._questions.open(wait=False)

    async def close(self) -> None:
        await self._pool.close(timeout=2)
        await self._questions.close(timeout=2)

    async def submit(self, target: Target, caller: Caller, head: RequestHead, path: bytes, body: bytes) -> QueueAnswer:
        """Queue it: 202, or 200 for one that was queued already under the same idempotency key."""
        if not target.version_id:
            raise target.unavailable()
        given = head.options | {options.IDEMPOTENCY_KEY: _idempotency_key(head)}
        try:
            chosen = options.read(given, webhook_networks=self._bounds.webhook_networks)
        except InvalidOptionError as error:
            raise GatewayError(400, "option_invalid", str(error), details={"field": error.field}) from None
        # They may hold what opens others' doors.
        headers = Cipher(self._keys.encryption).encrypt({"lines": head.passed.decode("latin-1")})
        fingerprint = hashlib.sha256(b"\n".join((head.method, path, head.content_type, body))).digest()
        uid = uuid.uuid4()
        values = {
            "uid": uid, "deployment": target.deployment_id, "api_id": target.api_id, "organization": caller.organization_id,
            "user": caller.user_id, "key": caller.key_id, "priority": chosen.priority, "queue_s": chosen.queue_s,
            "retries": chosen.retries, "payload_bytes": len(body), "webhook": chosen.webhook, "retry_of": None,
            "idempotency_key": chosen.idempotency_key, "fingerprint": fingerprint, "method": head.method.decode(),
            "path": path.decode("latin-1"), "headers": headers, "body": body,
            "most_waiting": self._bounds.most_waiting, "most_bytes": self._bounds.most_bytes,
        }  # fmt: skip
        async with self._turn(caller.organization_id), self._connection(self._pool) as connection:
            most = None
            # One at a time for an organization with a quota, until this has been written.
            async with connection.transaction():
                most = await _full_quota(connection, values)
                if most is None and await (await connection.execute(statements.SUBMIT, values)).fetchone() is not None:
                    return _accepted(202, uid)
            same = None
            if chosen.idempotency_key:
                same = await (await connection.execute(statements.SAME_KEY, values)).fetchone()
        if same is None and most is not None:
            raise GatewayError(429, "quota_exceeded", options.QUOTA_EXCEEDED.format(most=most), 30)
        if same is None:
            message = (
                f"The queue of {target.api_id} is full, or your half of it: with so many requests, or so many bytes of requests and "
                "kept results. Try again when some of it has been worked off or deleted."
            )
            raise GatewayError(429, "queue_full", message, 30)
        if bytes(same["fingerprint"]) != fingerprint:
            message = "This idempotency key stands for another request of yours. Use a new key for each."
            raise GatewayError(409, "idempotency_mismatch", message)
        return _accepted(200, same["uid"])

    async def control(self, caller: Caller, method: bytes, target: bytes) -> QueueAnswer:
        """The caller's own requests: list, one, its result; DELETE cancels."""
        path, _, query = target.decode("latin-1").partition("?")
        parts = path.removeprefix(_PATH).strip("/").split("/")
        if parts == [""]:
            if method not in (b"GET", b"HEAD"):
                raise GatewayError(
                    405,
                    "method_not_allowed",
                    "Ask with GET. Requests are queued at /async/v1/… or /{endpoint}/{deployment}/async/….",
                )
            return await self._list(caller, query)
        uid = _uid(parts[0])
        if len(parts) == 1 and method in (b"GET", b"HEAD"):
            return await self._one(caller, uid)
        if len(parts) == 1 and method == b"DELETE":
            return await self._cancel(caller, uid)
        if parts[1:] == ["result"] and method in (b"GET", b"HEAD"):
            return await self._result(caller, uid)
        if len(parts) == 1 or parts[1:] == ["result"]:
            raise GatewayError(405, "method_not_allowed", "Ask with GET; cancel one request with DELETE.")
        raise _not_found()

    async def _one(self, caller: Caller, uid: uuid.UUID) -> QueueAnswer:
        async with self._connection(self._questions) as connection:
            row = await self._row(connection, caller, uid)
            told = _description(row)
            if row["state"] in states.WAITING:
                told |= await _expectation(connection, row)
        return QueueAnswer(200, orjson.dumps(told))

    async def _list(self, caller: Caller, query: str) -> QueueAnswer:
        asked = {name: found[-1] for name, found in parse_qs(query).items()}
        unknown = set(asked) - {"deployment", "status", "limit", "before"}
        if unknown:
            raise _no_filter(
                min(unknown), f"“{min(unknown)}” is no filter. There are: deployment, status, limit, before."
            )
        status, limit, api_id = asked.get("status", ""), asked.get("limit", "20"), asked.get("deployment", "")
        if status and status not in states.SHOWN:
            raise _no_filter("status", f"status is one of {', '.join(states.SHOWN)}.")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= MOST_LISTED):
            raise _no_filter("limit", f"limit is a whole number from 1 to {MOST_LISTED}.")
        if not api_id.isprintable():
            raise _no_filter("deployment", "deployment is an API id, as demo/chat.")
        before = _parsed(asked["before"]) if asked.get("before") else None
        if asked.get("before") and before is None:
            raise _no_filter("before", "before is the id of a request.")
        values = _whose(caller) | {
            "api_id": api_id, "states": list(states.stored(status)) if status else None, "before": before, "limit": int(limit) + 1,
        }  # fmt: skip
        async with self._connection(self._questions) as connection:
            rows = await (await connection.execute(statements.LIST, values)).fetchall()
        found = [_description(row) for row in rows[: int(limit)]]
        return QueueAnswer(200, orjson.dumps({"object": "list", "data": found, "has_more": len(rows) > int(limit)}))

    async def _cancel(self, caller: Caller, uid: uuid.UUID) -> QueueAnswer:
        async with self._connection(self._questions) as connection:
            await self._row(connection, caller, uid)
            values = {"uid": uid, "code": "cancelled", "message": "Its caller cancelled it."}
            cancelled = await (await connection.execute(statements.CANCEL, values)).fetchone()
            row = await self._row(connection, caller, uid)
        if cancelled is None and row["state"] != states.CANCELLED:
            raise GatewayError(
                409, "already_ended", f"The request is {row['state']} already; there is nothing to cancel."
            )
        return QueueAnswer(200, orjson.dumps(_description(row)))

    async def _result(self, caller: Caller, uid: uuid.UUID) -> QueueAnswer:
        """The answer as the instance gave it, its status in a header: a stored 500 is no failure of this call."""
        async with self._connection(self._questions) as connection:
            row = await (await connection.execute(statements.RESULT, _whose(caller) | {"uid": uid})).fetchone()
        if row is None:
            raise _not_found()
        if row["body"] is None:
            if row["state"] in states.FINAL:
                message = f"The request is {row['state']} and has no result. {row['error_message']}".strip()
                raise GatewayError(404, "no_result", message)
            message = (
                f"The request is {states.shown(row['state'])}. Ask again later, or send a webhook's address with it."
            )
            raise GatewayError(404, "not_ready", message, 2)
        content_type = row["content_type"].encode("latin-1", "replace") or b"application/octet-stream"
        return QueueAnswer(
            200, bytes(row["body"]), content_type, ((b"x-slipway-async-status", b"%d" % row["status_code"]),)
        )

    async def _row(self, connection: psycopg.AsyncConnection[Any], caller: Caller, uid: uuid.UUID) -> dict[str, Any]:
        row: dict[str, Any] | None = await (
            await connection.execute(statements.ONE, _whose(caller) | {"uid": uid})
        ).fetchone()
        if row is None:
            raise _not_found()
        return row

    @asynccontextmanager
    async def _turn(self, organization: int) -> AsyncIterator[None]:
        turns = self._turns.setdefault(organization, asyncio.Semaphore(CONNECTIONS_EACH))
        try:
            async with asyncio.timeout(self._wait_s):
                await turns.acquire()
        except TimeoutError:
            message = "Your organization queues faster than the queue can take. Try again in a moment."
            raise GatewayError(429, "queue_busy", message, 2) from None
        try:
            yield
        finally:
            turns.release()

    @asynccontextmanager
    async def _connection(self, pool: AsyncConnectionPool) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        try:
            async with pool.connection() as connection:
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            log.warning("queue: %s", str(error).strip())
            message = "The queue's database does not answer. Nothing was changed that you were not told of; try again."
            raise GatewayError(503, "queue_unavailable", message, 5) from None


async def _full_quota(connection: psycopg.AsyncConnection[Any], values: Mapping[str, Any]) -> int | None:
    """The organization's bound on unfinished requests, if it has as many. Holds it until the transaction ends."""
    held = await (await connection.execute(statements.HOLD_QUOTA, values)).fetchone()
    if held is None:
        return None
    most: int = held["most"]
    counted = await (await connection.execute(statements.UNFINISHED_OF, {**values, "most": most})).fetchone()
    return most if counted and counted["used"] >= most else None


async def _expectation(connection: psycopg.AsyncConnection[Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """How many go before it and, by the pace of the last minutes, when it may begin; None where nothing moves."""
    values = {"deployment": row["deployment_id"], "priority": row["priority"], "id": row["id"]}
    (ahead,) = (await (await connection.execute(statements.POSITION, values)).fetchone() or {"count": 0}).values()
    (pace,) = (await (await connection.execute(statements.PACE, values)).fetchone() or {"pace": 0}).values()
    starts = datetime.now(UTC) + timedelta(seconds=(ahead + 1) / float(pace)) if pace else None
    return {"position": ahead + 1, "expected_start_at": starts}


def _description(row: Mapping[str, Any]) -> dict[str, Any]:
    path = f"{_PATH}/{row['uid'].hex}"
    error = {"code": row["error_code"], "message": row["error_message"]} if row["error_code"] else None
    told: dict[str, Any] = {
        "id": row["uid"].hex, "object": "async_request", "deployment": row["api_id"], "status": states.shown(row["state"]),
        "priority": row["priority"], "created_at": row["created_at"], "expires_at": row["expires_at"],
        "started_at": row["started_at"] or (row["claimed_at"] if row["state"] == states.RUNNING else None), "finished_at": row["finished_at"], "attempts": row["attempts"], "retries": row["retries"],
        "status_code": row["status_code"], "error": error, "url": path, "result_url": f"{path}/result",
    }  # fmt: skip
    if row["webhook_url"]:
        told["webhook"] = {
            "url": row["webhook_url"],
            "status": row["webhook_state"],
            "attempts": row["webhook_attempts"],
        }
    return told


def _accepted(status: int, uid: uuid.UUID) -> QueueAnswer:
    path = f"{_PATH}/{uid.hex}"
    told = {
        "id": uid.hex,
        "object": "async_request",
        "status": states.QUEUED,
        "url": path,
        "result_url": f"{path}/result",
    }
    if status == 200:
        # It may have ended long ago: its address tells.
        del told["status"]
    return QueueAnswer(status, orjson.dumps(told), lines=((b"location", path.encode()),))


def _whose(caller: Caller) -> dict[str, Any]:
    return {
        "user": caller.user_id,
        "deployments": sorted(caller.deployments) if caller.deployments is not None else None,
    }


def _uid(text: str) -> uuid.UUID:
    found = _parsed(text)
    if found is None:
        raise _not_found()
    return found


def _parsed(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _no_filter(field: str, message: str) -> GatewayError:
    return GatewayError(400, "filter_invalid", message, details={"field": field})


def _not_found() -> GatewayError:
    return GatewayError(
        404,
        "request_not_found",
        "There is no such request of yours. Ended ones are kept for 7 days, or as the deployment says.",
    )


def _idempotency_key(head: RequestHead) -> str:
    """It is handed on too, as on ordinary addresses."""
    for line in head.passed.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"idempotency-key":
            return value.strip().decode("latin-1")
    return ""
