"""Tells receivers how requests ended: signed, to public addresses only, tried again for 24 hours."""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import httpcore
import httpx
import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from async_inference import signature, statements
from common.addresses import IpNetwork
from common.installation_keys import InstallationKeys
from common.outbound import GuardedTransport, forget_location, no_cookies

log = logging.getLogger(__name__)

POLL_S = 0.5
TIMEOUT_S = 20.0
# Longer than an attempt can take.
LEASE_S = 60
AT_ONCE, AT_ONCE_OF_ONE = 50, 20
GIVE_UP_S = 24 * 3600
DELAYS_S = (5, 15, 60, 300, 900, 1800, 3600)
# A larger result isn't sent along; its address is.
INLINE_BYTES = 256 << 10


class Sender:
    """Lives on the dispatcher's loop. `allowed` are networks inside that operators let webhooks call."""

    def __init__(
        self, pool: AsyncConnectionPool, keys: InstallationKeys, allowed: Sequence[IpNetwork], public_url: str
    ) -> None:
        self._pool, self._keys, self._gateway_url = pool, keys, public_url
        self._busy: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        hooks = {"response": [forget_location]}
        settings: dict[str, Any] = {
            "timeout": TIMEOUT_S,
            "trust_env": False,
            "cookies": no_cookies(),
            "event_hooks": hooks,
        }
        self._clients = {
            "https": httpx.AsyncClient(transport=GuardedTransport(allowed), **settings),
            # In plain text only to places that operators vouch for.
            "http": httpx.AsyncClient(transport=GuardedTransport(allowed, public=False), **settings),
        }

    async def run(self) -> None:
        """For ever: what is due gets the places that are free."""
        while True:
            started = 0
            try:
                started = len(await self._begin())
            except (psycopg.Error, PoolTimeout, OSError) as error:
                log.warning("webhooks: %s", str(error).strip())
            except Exception:
                log.exception("webhooks")
            if not started:
                await asyncio.sleep(POLL_S)

    async def round(self) -> int:
        """What is due now, to its end; how many were tried."""
        tasks = await self._begin()
        await asyncio.gather(*tasks)
        return len(tasks)

    async def _begin(self) -> list[asyncio.Task[None]]:
        """Begin as many as there is room for; of one user no more than AT_ONCE_OF_ONE, or one slow receiver holds up all."""
        room = min(AT_ONCE_OF_ONE, AT_ONCE - sum(self._busy.values()))
        if room <= 0:
            return []
        busy = [user for user, count in self._busy.items() if count >= AT_ONCE_OF_ONE]
        async with self._pool.connection() as connection:
            values = {"most": room, "lease_s": LEASE_S, "inline": INLINE_BYTES, "busy": busy}
            rows = await (await connection.execute(statements.CLAIM_DELIVERIES, values)).fetchall()
        return [self._start(row) for row in rows]

    def _start(self, row: dict[str, Any]) -> asyncio.Task[None]:
        user = row["user_id"]
        self._busy[user] += 1
        task = asyncio.create_task(self._deliver(row))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._busy[user] -= 1
            if not self._busy[user]:
                del self._busy[user]
            if not task.cancelled() and (error := task.exception()) is not None:
                # Its lease ends, and it comes up again.
                log.warning("webhook of %s: %r", row["uid"], error)

        task.add_done_callback(ended)
        return task

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients.values():
            await client.aclose()

    async def _deliver(self, row: dict[str, Any]) -> None:
        started = time.monotonic()
        status, error = await self._post(row)
        delivered = status is not None and 200 <= status < 300
        wait_s = DELAYS_S[min(row["tries"], len(DELAYS_S) - 1)]
        given_up = not delivered and row["age"] + wait_s > GIVE_UP_S
        values = {
            "id": row["delivery_id"], "fence": row["fence"], "status": status, "error": error[:300],
            "state": "delivered" if delivered else "failed" if given_up else "pending", "wait_s": wait_s,
            "duration_ms": round((time.monotonic() - started) * 1000),
        }  # fmt: skip
        async with self._pool.connection() as connection:
            await connection.execute(statements.NOTE_ATTEMPT, values)

    async def _post(self, row: dict[str, Any]) -> tuple[int | None, str]:
        """(the receiver's status or None, what went wrong)."""
        url = row["webhook_url"]
        try:
            body = message(row, self._gateway_url)
        except (ValueError, RecursionError) as error:
            return None, f"The message could not be written: {error}."
        secrets = [signature.secret_of(row["user_id"], row["generation"], key) for key in self._keys.webhooks]
        headers = {
            "content-type": "application/json", "user-agent": "slipway-webhooks",
            **signature.headers(f"{row['uid'].hex}", body, secrets, int(time.time())),
        }  # fmt: skip
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                self._clients[url.partition(":")[0].lower()].stream(
                    "POST", url, content=body, headers=headers
                ) as answer,
            ):
                # Its body is nobody's business here: a receiver must not make us read for ever.
                status = answer.status_code
        except (TimeoutError, httpx.TimeoutException):
            return None, f"There was no answer within {TIMEOUT_S:.0f} s."
        except (httpx.HTTPError, httpx.InvalidURL, httpcore.NetworkError, UnicodeError) as error:
            return None, _words(error)
        if 300 <= status < 400:
            return status, "Redirects are not followed. Give the address that it leads to."
        return status, "" if status < 300 else "The receiver did not take it."


def message(row: dict[str, Any], gateway_url: str) -> bytes:
    """What is posted: how the request ended, and its result where that is JSON or text and not large."""
    path = f"/async/requests/{row['uid'].hex}"
    body = bytes(row["body"]) if row["body"] is not None else None
    told = {
        "type": f"async_request.{row['state']}",
        "timestamp": _moment(row["finished_at"]),
        "data": {
            "id": row["uid"].hex, "deployment": row["api_id"], "status": row["state"], "status_code": row["status_code"],
            "error": {"code": row["error_code"], "message": row["error_message"]} if row["error_code"] else None,
            "created_at": _moment(row["created_at"]), "started_at": _moment(row["started_at"]), "attempts": row["attempts"],
            "result": _inline(row["content_type"] or "", body), "result_url": f"{gateway_url}{path}/result" if row["content_type"] is not None else None,
        },
    }  # fmt: skip
    return json.dumps(told).encode()


def _inline(content_type: str, body: bytes | None) -> Any:
    if body is None:
        return None
    try:
        if content_type.lower().startswith("application/json"):
            value = json.loads(body, parse_constant=_no_constant)
            # 1e999 is read as infinity, too.
            json.dumps(value, allow_nan=False)
            return value
        return body.decode() if content_type.lower().startswith("text/") else None
    except (ValueError, RecursionError):
        return None


def _no_constant(name: str) -> Any:
    """Python reads and writes NaN and Infinity, which no JSON has."""
    raise ValueError(name)


def _moment(value: datetime | None) -> str | None:
    return value.isoformat() if value is not None else None


def _words(error: Exception) -> str:
    text = str(error).strip()
    if "certificate" in text.lower():
        return f"The receiver's certificate is not valid: {text}"
    if text == "All connection attempts failed":
        return "The receiver does not accept connections."
    return text or f"The receiver could not be reached ({type(error).__name__})."
