"""Takes asynchronous requests from the queue and has each one sent, as many at once as the instances can take.

Any number of dispatchers may run. Each claim is a lease with a fencing token, kept while its request runs: a dispatcher
that is killed loses its requests to the others after LEASE_S, and what it might still say of them counts no more.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import httpx
import psycopg
from asgiref.sync import sync_to_async
from django.db import DatabaseError, close_old_connections
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from async_inference import places, sending, statements, states
from async_inference.places import Place
from async_inference.sending import Claim, Ended, NotYet, TryAgain, What
from common.installation_keys import InstallationKeys

log = logging.getLogger(__name__)

POLL_S = 0.2
LEASE_S = 10
RENEW_S = 2.0
SWEEP_S = 1.0
PLACES_S = 1.0
# Of one deployment in one transaction; and of all together in one process.
MOST_AT_ONCE = 32
MOST_RUNNING = 512
MOST_OF_ONE = 256
MOST_BYTES = 512 << 20
# Of an answer; more than that is read of LARGE_AT_ONCE at a time.
SMALL_BYTES = 256 << 10
LARGE_AT_ONCE = 8
MOST_LOSSES = 5
DRAIN_S = 8.0
NOTE_S = 4.0
DATABASE_ERRORS = (psycopg.Error, PoolTimeout, DatabaseError, OSError)


class Dispatcher:
    """Lives on one event loop. `client` is httpx with the gateway's address as its base."""

    def __init__(
        self,
        pool: AsyncConnectionPool,
        client: httpx.AsyncClient,
        keys: InstallationKeys,
        leases: AsyncConnectionPool | None = None,
    ) -> None:
        self._pool, self._client, self._keys = pool, client, keys
        # Of their own: whatever fills the others, leases must not lapse.
        self._lease_pool = leases or pool
        self._running: dict[int, tuple[Claim, asyncio.Task[None]]] = {}
        self._bytes = 0
        # So many may be read beyond their beginnings; the others wait, and their instances with them.
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        # Those whose end is known and only to be stored: cut off now they would run once more.
        self._noting: set[int] = set()
        self._freed = asyncio.Event()
        self._places: dict[int, Place] = {}
        self._places_at = 0.0
        self._asked: frozenset[int] = frozenset()
        # By deployment and caller: until when nothing of theirs is claimed, on the monotonic clock.
        self._held_back: dict[int, dict[str, float]] = {}
        self._closed_until: dict[int, float] = {}

    async def run(self, stopped: asyncio.Event) -> None:
        """Until `stopped`; then what runs may end for DRAIN_S, and the rest goes back into the queue."""
        tasks = [
            asyncio.create_task(self._every(RENEW_S, self._renew)),
            asyncio.create_task(self._every(SWEEP_S, self._sweep)),
        ]
        claiming = asyncio.create_task(self._claiming())
        try:
            await stopped.wait()
        finally:
            claiming.cancel()
            # A claim may have been made that nobody would know of.
            await asyncio.gather(claiming, return_exceptions=True)
            running = [task for _, task in self._running.values()]
            if running and stopped.is_set():
                await asyncio.wait(running, timeout=DRAIN_S)
            for task in tasks:
                task.cancel()
            for number, (_, task) in list(self._running.items()):
                if number not in self._noting:
                    task.cancel()
            # A database that is away must not keep us: what can't be noted is taken over by its lease.
            ending = [*tasks, *running]
            await asyncio.wait(ending, timeout=NOTE_S)
            for task in ending:
                task.cancel()

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except DATABASE_ERRORS as error:
                log.warning("queue: %s", str(error).strip())
            except Exception:
                # Without these rounds leases would run out and nothing would ever expire.
                log.exception("queue")

    # Claiming

    async def _claiming(self) -> None:
        while True:
            took = 0
            try:
                # Not to be torn in two by the end: the requests of a claim must find their tasks.
                took = await self._whole(self._claim_all())
            except DATABASE_ERRORS as error:
                log.warning("queue: %s", str(error).strip())
                await asyncio.sleep(1)
            except Exception:
                log.exception("queue")
                await asyncio.sleep(1)
            if not took:
                await self._wait()

    async def _whole(self, claiming: Coroutine[Any, Any, int]) -> int:
        task = asyncio.ensure_future(claiming)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.gather(task, return_exceptions=True)
            raise

    async def _wait(self) -> None:
        """Until something has become free, or a new request may have come."""
        self._freed.clear()
        try:
            async with asyncio.timeout(POLL_S):
                await self._freed.wait()
        except TimeoutError:
            return
        # What ends together is replaced together.
        await asyncio.sleep(0.005)

    async def _claim_all(self) -> int:
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(statements.WAITING_DEPLOYMENTS)).fetchall()
        now = time.monotonic()
        waiting = {row["deployment_id"] for row in rows}
        ready = frozenset(pk for pk in waiting if self._closed_until.get(pk, 0.0) <= now)
        if not ready:
            return 0
        if now - self._places_at > PLACES_S or not ready <= self._asked:
            self._places = await _in_thread(places.find, ready)
            self._places_at, self._asked = now, ready
        took = 0
        # In another order each time: whoever comes first may take all the room.
        for deployment_id in random.sample(sorted(ready), len(ready)):
            place = self._places.get(deployment_id)
            if place is not None:
                took += await self._claim(place)
        return took

    async def _claim(self, place: Place) -> int:
        mine = sum(claim.deployment_id == place.deployment_id for claim, _ in self._running.values())
        most = min(MOST_AT_ONCE, MOST_RUNNING - len(self._running), MOST_OF_ONE - mine)
        if most <= 0 or self._bytes >= MOST_BYTES:
            return 0
        values = {
            "class": statements.CLAIM_CLASS, "deployment": place.deployment_id, "most": most, "capacity": place.capacity,
            "lease_s": LEASE_S, "held_back": self._held_back_of(place.deployment_id),
        }  # fmt: skip
        async with self._pool.connection() as connection, connection.transaction():
            lock = await (await connection.execute(statements.LOCK_DEPLOYMENT, values)).fetchone()
            if not lock or not all(lock.values()):
                return 0
            rows = await (await connection.execute(statements.CLAIM, values)).fetchall()
        if not rows and values["held_back"] and mine < place.capacity:
            # All that is left may be theirs: stepping over them again and again would cost more the more there are.
            self._closed_until[place.deployment_id] = time.monotonic() + 1.0
        for row in rows:
            claim = Claim.of(row)
            if claim.id in self._running:
                # Ours from before we lost it, in a pause: what it says counts no more.
                self._running[claim.id][1].cancel()
            task = asyncio.create_task(self._run(claim, place))
            self._running[claim.id] = (claim, task)
        return len(rows)

    def _held_back_of(self, deployment_id: int) -> list[str]:
        now = time.monotonic()
        callers = {caller: until for caller, until in self._held_back.get(deployment_id, {}).items() if until > now}
        if callers:
            self._held_back[deployment_id] = callers
        else:
            self._held_back.pop(deployment_id, None)
        return list(callers)

    # Running

    async def _run(self, claim: Claim, place: Place) -> None:
        held, is_large = 0, False

        async def hold(size: int) -> None:
            nonlocal held, is_large
            held += size
            self._bytes += size
            if held - claim.payload_bytes > SMALL_BYTES and not is_large:
                await self._large.acquire()
                is_large = True

        await hold(claim.payload_bytes)
        try:
            try:
                async with asyncio.timeout(sending.TOTAL_TIMEOUT_S):
                    what = await self._send(claim, place, hold)
            except TimeoutError:
                what = Ended(states.FAILED, None, "total_timeout", "The request took longer than a request may take.")
            except asyncio.CancelledError:
                # Cancelled by its caller, taken away, or we end: only in the last case is it still ours to put back.
                what = NotYet(reached=True)
            except DATABASE_ERRORS as error:
                log.warning("%s: %s", claim.uid, str(error).strip())
                what = NotYet(place_waits_s=1.0)
            except Exception:
                # Left alone it would be taken for lost, and run again and again.
                log.exception("%s", claim.uid)
                what = Ended(states.FAILED, None, "internal", "The dispatcher could not do this. Its log says why.")
            self._noting.add(claim.id)
            await self._note(claim, place, what)
        finally:
            self._noting.discard(claim.id)
            if is_large:
                self._large.release()
            self._bytes -= held
            if self._running.get(claim.id, (None,))[0] is claim:
                del self._running[claim.id]
            self._freed.set()

    async def _send(self, claim: Claim, place: Place, hold: Callable[[int], Awaitable[None]]) -> What:
        if not claim.key_id and not await _in_thread(places.may_still_call, claim.user_id, claim.deployment_id):
            return Ended(
                states.FAILED, None, "access_ended", "Its sender may not call this deployment any more.", reached=False
            )
        return await sending.send(claim, place, self._client, self._keys, hold)

    async def _note(self, claim: Claim, place: Place, what: What) -> None:
        """Until the database has taken it, or refused it by its fence: an answer that is here must not be asked for again."""
        while True:
            try:
                await self._store(claim, place, what)
                return
            except psycopg.DataError as error:
                # It would be refused for ever.
                log.warning("the end of %s can't be stored: %s", claim.uid, str(error).strip())
                what = Ended(states.FAILED, None, "not_storable", "The instance's answer could not be stored.")
            except DATABASE_ERRORS as error:
                log.warning("the end of %s is not stored yet: %s", claim.uid, str(error).strip())
                await asyncio.sleep(0.5)

    async def _store(self, claim: Claim, place: Place, what: What) -> None:
        values: dict[str, Any] = {"id": claim.id, "fence": claim.fence}
        if isinstance(what, Ended):
            statement = statements.FINISH
            values |= {
                "state": what.state, "status": what.status, "code": what.code[:40], "message": what.message,
                "version": place.version_id, "reached": what.reached, "content_type": what.content_type, "body": what.body,
            }  # fmt: skip
        elif isinstance(what, TryAgain):
            statement = statements.RETRY
            values |= {"code": what.code[:40], "message": what.message, "wait_s": what.wait_s}
        else:
            statement = statements.PUT_BACK
            values["reached"] = what.reached
            now = time.monotonic()
            if what.caller_waits_s:
                self._held_back.setdefault(claim.deployment_id, {})[claim.caller] = now + what.caller_waits_s
            if what.place_waits_s:
                self._closed_until[claim.deployment_id] = now + what.place_waits_s
        async with self._pool.connection() as connection:
            await connection.execute(statement, values)

    # Rounds

    async def _renew(self) -> None:
        """Keep what is ours; what was cancelled, or taken away after a pause of ours, is cut off."""
        mine = [claim for claim, _ in self._running.values()]
        if not mine:
            return
        values = {"ids": [claim.id for claim in mine], "fences": [claim.fence for claim in mine], "lease_s": LEASE_S}
        async with self._lease_pool.connection() as connection:
            await connection.execute(statements.RENEW, values)
            lost = {row["id"] for row in await (await connection.execute(statements.LOST, values)).fetchall()}
        for claim in mine:
            found = self._running.get(claim.id)
            if claim.id in lost and found is not None and found[0] is claim:
                found[1].cancel()

    async def _sweep(self) -> None:
        """Wake what waits for its next attempt, take over what was lost, end what waited too long."""
        # First our own: after a pause of everything they would be taken from us by ourselves.
        await self._renew()
        lost = {"most_losses": MOST_LOSSES, "message": f"Its dispatcher ended {MOST_LOSSES} times while it ran."}
        async with self._pool.connection() as connection:
            await connection.execute(statements.WAKE_RETRIES)
            taken = await (await connection.execute(statements.RECLAIM, lost)).fetchall()
            overdue = await (await connection.execute(statements.OVERDUE_DEPLOYMENTS)).fetchall()
        if taken:
            log.warning("%d requests of a dispatcher that vanished are taken over", len(taken))
        for row in overdue:
            reason = await _in_thread(places.why_waiting, row["deployment_id"])
            async with self._pool.connection() as connection:
                await connection.execute(statements.EXPIRE, {"deployment": row["deployment_id"], "reason": reason})


async def _in_thread(function: Callable[..., Any], *values: Any) -> Any:
    """Django's own queries, off the loop."""

    def call() -> Any:
        try:
            return function(*values)
        finally:
            close_old_connections()

    return await sync_to_async(call, thread_sensitive=False)()
