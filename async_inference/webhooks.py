"""Tells receivers how requests ended: signed, to public addresses only, tried again for 24 hours."""

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import httpcore
import httpx
from psycopg_pool import AsyncConnectionPool

from async_inference import signature, statements
from common.outbound import GuardedTransport, IpNetwork

log = logging.getLogger(__name__)

POLL_S = 0.5
TIMEOUT_S = 20.0
# Longer than an attempt can take.
LEASE_S = 60
AT_ONCE = 20
GIVE_UP_S = 24 * 3600
DELAYS_S = (5, 15, 60, 300, 900, 1800, 3600)
# A larger result isn't sent along; its address is.
INLINE_BYTES = 256 << 10


class Sender:
    """Lives on the dispatcher's loop. `allowed` are networks inside that operators let webhooks call."""

    def __init__(self, pool: AsyncConnectionPool, secret: str, allowed: Sequence[IpNetwork], public_url: str) -> None:
        self._pool, self._secret, self._gateway_url = pool, secret, public_url
        settings: dict[str, Any] = {"timeout": TIMEOUT_S, "follow_redirects": False, "trust_env": False}
        self._clients = {
            "https": httpx.AsyncClient(transport=GuardedTransport(allowed), **settings),
            # In plain text only to places that operators vouch for.
            "http": httpx.AsyncClient(transport=GuardedTransport(allowed, public=False), **settings),
        }

    async def round(self) -> int:
        """Deliver what is due; how many were tried."""
        async with self._pool.connection() as connection:
            rows = await (
                await connection.execute(
                    statements.CLAIM_DELIVERIES, {"most": AT_ONCE, "lease_s": LEASE_S, "inline": INLINE_BYTES}
                )
            ).fetchall()
        await asyncio.gather(*(self._deliver(row) for row in rows))
        return len(rows)

    async def close(self) -> None:
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
        body = message(row, self._gateway_url)
        secret = signature.secret_of(row["user_id"], row["generation"], self._secret)
        headers = {
            "content-type": "application/json", "user-agent": "slipway-webhooks",
            **signature.headers(f"{row['uid'].hex}", body, secret, int(time.time())),
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
            return json.loads(body)
        return body.decode() if content_type.lower().startswith("text/") else None
    except ValueError:
        return None


def _moment(value: datetime | None) -> str | None:
    return value.isoformat() if value is not None else None


def _words(error: Exception) -> str:
    text = str(error).strip()
    if "certificate" in text.lower():
        return f"The receiver's certificate is not valid: {text}"
    if text == "All connection attempts failed":
        return "The receiver does not accept connections."
    return text or f"The receiver could not be reached ({type(error).__name__})."
