"""Websockets: nudges for open pages, live logs, and the frames of a test. Each checks who asks before it tells anything."""

import asyncio
import contextlib
import json
from typing import Any

import redis.asyncio
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings

from accounts import second_factor
from accounts.models import User
from accounts.open_sockets import SignedIn, open_sockets
from common.broadcast import group_name
from common.numbers import whole
from deployments import log_store, relay
from deployments.models import Instance
from deployments.selectors import visible_deployments, visible_endpoints, visible_instances, visible_models

# Closing before accepting would reach the browser as a bare 403; these codes tell it what to do.
SIGN_IN_AGAIN, NOT_FOUND = 4401, 4404
MAX_SUBSCRIPTIONS = 200
HISTORY_LINES = 500
# How long one question to Valkey waits for news. Well below the client library's own timeout, which would end the page.
WAIT_MS = 2000
VISIBLE = {"deployment": visible_deployments, "model": visible_models, "endpoint": visible_endpoints}


_lacks_second_factor = database_sync_to_async(second_factor.is_missing)


@database_sync_to_async
def _is_active(user_id: int) -> bool:
    return User.objects.filter(pk=user_id, is_active=True).exists()


class SignedInConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self) -> None:
        await self.accept()
        user = self.scope["user"]
        if not user.is_authenticated or (second_factor.is_wanted() and await _lacks_second_factor(user)):
            await self.close(code=SIGN_IN_AGAIN)
            return
        open_sockets().join(self, SignedIn(self.scope["session"].session_key, user.pk, user.get_session_auth_hash()))
        await self.begin()

    async def websocket_disconnect(self, message: Any) -> None:
        open_sockets().leave(self)
        await super().websocket_disconnect(message)

    async def end_session(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            await self.close(code=SIGN_IN_AGAIN)

    async def recheck(self) -> None:
        if not await self.is_allowed():
            with contextlib.suppress(OSError, RuntimeError):
                await self.turn_away()

    async def turn_away(self) -> None:
        """Its user may not see what it tells; maybe because the account was switched off in this moment."""
        await self.close(code=NOT_FOUND if await _is_active(self.scope["user"].pk) else SIGN_IN_AGAIN)

    async def is_allowed(self) -> bool:
        """Whether its user may still see what it tells."""
        return True

    async def begin(self) -> None:
        """Called once the user is known."""

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        try:
            return json.loads(text_data)
        except (ValueError, RecursionError):
            return None


class LiveConsumer(SignedInConsumer):
    """`{"subscribe": ["deployment.12", …]}` → `{"type": "changed", "kind", "id", "seq"}` for what the user may see."""

    # None: who asks may hear nothing, and is being told so.
    _groups: set[str] | None = None
    _wanted: list[Any] = []

    async def begin(self) -> None:
        self._groups = set()

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        wanted = content.get("subscribe") if isinstance(content, dict) else None
        if not isinstance(wanted, list) or self._groups is None:
            return
        self._wanted = wanted[:MAX_SUBSCRIPTIONS]
        await self.send_json({"type": "subscribed", "count": await self._listen()})

    async def is_allowed(self) -> bool:
        """What may not be heard any more is dropped; the page hears the rest."""
        if self._groups:
            await self._listen()
        return True

    async def _listen(self) -> int:
        """Hear of what is wanted and may be seen now; how much that is."""
        groups = {group_name(kind, pk) for kind, pk in await self._allowed(self._wanted)}
        before = self._groups or set()
        for group in groups - before:
            await self.channel_layer.group_add(group, self.channel_name)
        for group in before - groups:
            await self.channel_layer.group_discard(group, self.channel_name)
        self._groups = groups
        return len(groups)

    async def changed(self, message: dict[str, Any]) -> None:
        await self.send_json(message)

    async def disconnect(self, code: int) -> None:
        for group in self._groups or ():
            await self.channel_layer.group_discard(group, self.channel_name)

    @database_sync_to_async
    def _allowed(self, names: list[Any]) -> list[tuple[str, int]]:
        # Read anew: the one of the handshake may have lost a right since.
        user = User.objects.filter(pk=self.scope["user"].pk, is_active=True).first()
        if user is None:
            return []
        by_kind: dict[str, list[int]] = {}
        for name in names:
            kind, _, pk = str(name).partition(".")
            number = whole(pk)
            if kind in VISIBLE and number is not None:
                by_kind.setdefault(kind, []).append(number)
        return [
            (kind, pk)
            for kind, pks in by_kind.items()
            for pk in VISIBLE[kind](user).filter(pk__in=pks).values_list("pk", flat=True)
        ]


class StreamConsumer(SignedInConsumer):
    """Follows one Valkey stream in a task of its own until the page leaves. Hears no nudges, so it has no channel."""

    channel_layer_alias = None

    async def begin(self) -> None:
        self._store = redis.asyncio.Redis.from_url(settings.SCRATCH_REDIS_URL)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def follow(self) -> None:
        raise AssertionError("each consumer follows its own stream")

    async def disconnect(self, code: int) -> None:
        if hasattr(self, "_task"):
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            await self._store.aclose()

    async def _run(self) -> None:
        try:
            await self.follow()
        except (redis.RedisError, OSError):
            # The page connects again by itself and asks from where it stands. It may have left in this moment.
            with contextlib.suppress(OSError):
                await self.close(code=1013)


class LogConsumer(StreamConsumer):
    """The stored end of an instance's log, then each new line: `{"lines": [[position, text], …]}`."""

    async def follow(self) -> None:
        instance = await self._instance()
        if instance is None:
            await self.turn_away()
            return
        # From the live tail first, so that what is sealed between the two readings is in one of them.
        tail = await self._store.xrange(log_store.tail_key(instance.uid))
        page = await database_sync_to_async(log_store.read_before)(instance.uid, None, HISTORY_LINES)
        lines = [[line.position, line.text] for line in page.lines]
        position = lines[-1][0] if lines else 0
        last_id = "0"
        for entry_id, fields in tail:
            last_id = entry_id
            at, text = int(fields[b"p"]), fields[b"t"].decode("utf-8", "replace")
            if at > position:
                lines.append([at, text])
                position = at
        await self.send_json(
            {"lines": lines, "has_earlier": page.has_earlier, "is_cut": page.is_cut, "is_live": instance.is_live}
        )
        while True:
            found = await self._store.xread({log_store.tail_key(instance.uid): last_id}, block=WAIT_MS, count=500)
            fresh = []
            for _, entries in found or ():
                for entry_id, fields in entries:
                    last_id = entry_id
                    at = int(fields[b"p"])
                    # A watcher that took over may repeat lines; positions tell.
                    if at > position:
                        position = at
                        fresh.append([at, fields[b"t"].decode("utf-8", "replace")])
            if fresh:
                await self.send_json({"lines": fresh})

    async def is_allowed(self) -> bool:
        return await self._instance() is not None

    @database_sync_to_async
    def _instance(self) -> Instance | None:
        uid = self.scope["url_route"]["kwargs"]["uid"]
        user = User.objects.filter(pk=self.scope["user"].pk, is_active=True).first()
        return visible_instances(user).filter(uid=uid).first() if user is not None else None


class TestConsumer(StreamConsumer):
    """The frames of one test of this user, from the first on; `{"cancel": true}` and leaving the page end it."""

    _is_over = False

    async def follow(self) -> None:
        test_id = self.scope["url_route"]["kwargs"]["test_id"]
        if not await self._is_own():
            await self.turn_away()
            return
        last_id = "0"
        while True:
            found = await self._store.xread({relay.frames_key(test_id): last_id}, block=WAIT_MS, count=200)
            if not found and not await self._store.exists(relay.alive_key(test_id)):
                # The relay is gone: with its process, for example. It may have written its last frame just now.
                found = await self._store.xread({relay.frames_key(test_id): last_id}, count=200)
                if not found:
                    await self.send_json({"kind": "error", "message": relay.LOST})
                    self._is_over = True
                    await self.close()
                    return
            for _, entries in found or ():
                for entry_id, fields in entries:
                    last_id = entry_id
                    frame = json.loads(fields[b"f"])
                    await self.send_json(frame)
                    if frame["kind"] in ("done", "error", "cancelled"):
                        self._is_over = True
                        await self.close()
                        return

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        if isinstance(content, dict) and content.get("cancel"):
            await self._cancel()

    async def disconnect(self, code: int) -> None:
        with contextlib.suppress(redis.RedisError, OSError):
            await self._cancel()
        await super().disconnect(code)

    async def _cancel(self) -> None:
        # Asked anew: a page that cancels, or is left, at once does so before its test was begun to be followed.
        if not self._is_over and hasattr(self, "_store") and await self._is_own():
            await self._store.set(relay.cancel_key(self.scope["url_route"]["kwargs"]["test_id"]), 1, ex=60)

    async def _is_own(self) -> bool:
        owner = await self._store.get(relay.owner_key(self.scope["url_route"]["kwargs"]["test_id"]))
        return owner is not None and int(owner) == self.scope["user"].pk
