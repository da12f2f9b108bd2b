"""The websockets that this process holds open, and whether whoever opened them may still be there.

A page may stay open for days. A changed password, a sign-out or an account that is switched off ends its sockets, and a right that
is taken away ends what that right had opened, within LOOK_S. One look serves all sockets of the process: three statements, and one more
for a socket where the audit log has grown, as it does with each change of a right.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

from channels.db import database_sync_to_async
from django.contrib.sessions.models import Session
from django.db import DatabaseError
from django.db.models import Max
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from accounts import second_factor
from accounts.models import AuditEntry, User

log = logging.getLogger(__name__)

LOOK_S = 3.0


class Socket(Protocol):
    async def end_session(self) -> None:
        """Its user has to sign in again."""

    async def recheck(self) -> None:
        """Somebody's rights may have changed: drop what the user may not hear any more."""


@dataclass(frozen=True)
class SignedIn:
    """As it was when the socket was opened. `auth_hash` changes with the password."""

    key: str
    user_id: int
    auth_hash: str


class OpenSockets:
    def __init__(self) -> None:
        self._sockets: dict[Socket, SignedIn] = {}
        # The newest row of the audit log when a socket was last looked at.
        self._seen: dict[Socket, int] = {}
        self._looking: asyncio.Task[None] | None = None

    def join(self, socket: Socket, signed_in: SignedIn) -> None:
        self._sockets[socket], self._seen[socket] = signed_in, -1
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look_on())

    def leave(self, socket: Socket) -> None:
        self._forget(socket)
        if not self._sockets and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _forget(self, socket: Socket) -> None:
        self._sockets.pop(socket, None)
        self._seen.pop(socket, None)

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except DatabaseError as error:
                # Nobody's rights can have changed meanwhile, either.
                log.warning("open pages are looked at again later: %s", error)
            except Exception:
                log.exception("looking at open pages")

    async def _look(self) -> None:
        sockets = dict(self._sockets)
        good, mark = await _still_good(set(sockets.values()))
        for socket, signed_in in sockets.items():
            try:
                await self._judge(socket, is_good=signed_in in good, mark=mark)
            except Exception:
                # One page that can't be told holds up none of the others; it is looked at again.
                log.exception("an open page could not be looked at")

    async def _judge(self, socket: Socket, *, is_good: bool, mark: int) -> None:
        if not is_good:
            self._forget(socket)
            await socket.end_session()
        elif self._seen.get(socket, mark) != mark:
            await socket.recheck()
            # Behind it: what could not be asked is asked again. It may have left meanwhile.
            if socket in self._sockets:
                self._seen[socket] = mark


@database_sync_to_async
def _still_good(all_of_them: set[SignedIn]) -> tuple[set[SignedIn], int]:
    """Those whose session and account are as they were, and the newest row of the audit log."""
    mark = AuditEntry.objects.aggregate(mark=Max("pk"))["mark"] or 0
    keys = {item.key for item in all_of_them}
    alive = set(Session.objects.filter(pk__in=keys, expire_date__gt=timezone.now()).values_list("pk", flat=True))
    active = User.objects.filter(is_active=True).annotate(second_factor=second_factor.exists())
    found = active.in_bulk({item.user_id for item in all_of_them})
    # Whoever became an operator meanwhile may have to set one up first.
    users = {pk: user for pk, user in found.items() if user.second_factor or not second_factor.must_have(user)}
    good = {item for item in all_of_them if item.key in alive and _is_unchanged(users.get(item.user_id), item)}
    return good, mark


def _is_unchanged(user: User | None, session: SignedIn) -> bool:
    return user is not None and constant_time_compare(user.get_session_auth_hash(), session.auth_hash)


_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, OpenSockets] = WeakKeyDictionary()


def open_sockets() -> OpenSockets:
    """Those of the running loop."""
    loop = asyncio.get_running_loop()
    found = _by_loop.get(loop)
    if found is None:
        found = _by_loop[loop] = OpenSockets()
    return found
