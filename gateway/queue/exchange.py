"""One asynchronous request to the gateway: taken whole, put into the queue, answered with its id; or asked about later."""

import asyncio
import logging
import math
from time import monotonic

from common.byte_budget import network_of
from gateway.access.callers import ANONYMOUS, Caller, by_key
from gateway.bodies import apis, request_coding
from gateway.bodies.model import USUAL_MODELS, model_of, renamed
from gateway.core import Gateway, Queue, QueueAnswer
from gateway.errors import GatewayError, bad_request
from gateway.http import framing
from gateway.http.bounds import UNCOUNTED_BODY, Holders
from gateway.http.client import ClientConnection
from gateway.http.framing import RequestHead
from gateway.limits import limiter
from gateway.routing import cross_origin, model_paths, routes
from gateway.routing.target import Target

log = logging.getLogger(__name__)

MAX_BODY = 10 << 20
_PREFIX, _REQUESTS = b"/async", b"/async/requests"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class AsyncExchange:
    """As Exchange, for the client's connection. Not in the books: what the queue sends later is."""

    is_tunnel = False
    admitted_deployment = None

    def __init__(self, gateway: Gateway, client: ClientConnection, head: RequestHead) -> None:
        self.client, self.head, self._gateway = client, head, gateway
        _, self.request_id = self._gateway.next_request(head.request_id)
        self.keep_alive = head.keep_alive and not head.websocket
        self.request_done = self.done = False
        self.deadline = math.inf
        self._caller: Caller = ANONYMOUS
        self._body: list[bytes] = []
        self._size = self._counted = 0
        self._began = 0.0
        self._holders: Holders = {}
        self._working: asyncio.Task[None] | None = None

    @property
    def is_queuing(self) -> bool:
        return self.request_done

    def begin(self, body: bytes = b"") -> None:
        """Check who it is; the rest needs the body, which may have come with the head."""
        now, gateway = monotonic(), self._gateway
        self._began = now
        self.deadline = now + gateway.timeouts.body_idle_s
        try:
            if self.head.websocket:
                raise bad_request("A websocket can't wait in a queue. Connect to the ordinary address.")
            if not self.head.key:
                message = "Asynchronous requests need an API key: their results belong to somebody."
                raise GatewayError(401, "key_missing", message)
            self._caller = by_key(gateway.keys, self.head.key, now + gateway.wall_offset)
            if (self.head.length or 0) > MAX_BODY:
                raise _too_large()
        except GatewayError as error:
            self.fail(error)
            return
        if body:
            self.request_body(body)
        if self.done:
            return
        if self.request_done:
            self._work()
        elif self.head.expects:
            self.client.write(CONTINUE)

    def request_body(self, data: bytes) -> None:
        if self.done:
            return
        self._size += len(data)
        self._body.append(data)
        self.deadline = monotonic() + self._gateway.timeouts.body_idle_s
        if self._size > UNCOUNTED_BODY:
            self._count_held()

    def _count_held(self) -> None:
        try:
            if self._size > MAX_BODY:
                raise _too_large()
            self._holders = self._holders or self._gateway.bodies.holders(
                self._caller.user_id, network_of(self._gateway.origin_of(self.client.peer, self.head))
            )
            self._gateway.bodies.take(self._holders, self._size - self._counted)
            self._counted = self._size
        except GatewayError as error:
            self.fail(error)

    def _let_go(self) -> None:
        self._body = []
        if self._counted:
            self._gateway.bodies.give_back(self._holders, self._counted)
            self._counted = 0

    def request_complete(self) -> None:
        self.request_done = True
        if not self.done:
            self._work()

    def client_data(self, data: bytes) -> None:
        """There are no websockets here."""

    def client_writable(self, writable: bool) -> None:
        """Answers are short or taken whole: nothing is to be held back."""

    def client_lost(self) -> None:
        """What is being stored may be stored: the client's idempotency key is how it asks again."""
        self.done = True
        if self._working is None:
            self._let_go()

    def client_half_closed(self) -> None:
        """Answers are short."""

    def check_deadline(self, now: float) -> None:
        if not self.request_done and (self.deadline < now or now - self._began > self._gateway.timeouts.total_s):
            self.fail(GatewayError(408, "body_timeout", "The body did not arrive in time. Send it again."))

    def _work(self) -> None:
        self._working = self._gateway.loop.create_task(self._answer())

    async def _answer(self) -> None:
        try:
            self._reply(await self._ask())
        except GatewayError as error:
            self.fail(error)
        except Exception:
            log.exception("%s", self.request_id.decode())
            self.fail(GatewayError(500, "internal", "The gateway could not do this. Its log says why."))
        finally:
            self._let_go()

    async def _ask(self) -> QueueAnswer:
        target = routes.path_of(self.head)
        plain = target.partition(b"?")[0]
        if plain == _REQUESTS or plain.startswith(_REQUESTS + b"/"):
            return await self._queue.control(self._caller, self.head.method, target)
        body = b"".join(self._body)
        if self.head.coding and body:
            # Elsewhere: what is small here may be large there.
            body = await self._gateway.openers.run(
                request_coding.opened, self.head.coding, body, MAX_BODY, _too_large()
            )
        deployment, path, body = self._place(target, body)
        if self._caller.organization_id in self._gateway.snapshot.spent:
            # It would only be put back each minute until it expires.
            raise limiter.month_is_spent()
        return await self._queue.submit(deployment, self._caller, self.head, path, body)

    @property
    def _queue(self) -> Queue:
        if self._gateway.queue is None:
            raise GatewayError(503, "queue_unavailable", "This gateway keeps no queue.", 5)
        return self._gateway.queue

    def _place(self, target: bytes, body: bytes) -> tuple[Target, bytes, bytes]:
        """Which deployment it is for, what its instance will be asked, and with which body."""
        snapshot = self._gateway.snapshot
        if target.startswith(_PREFIX + b"/"):
            target = target[len(_PREFIX) :]
        if (place := model_paths.of(target)) is not None and routes.prefix_of(target) not in snapshot.by_prefix:
            path, model = place
            if model is None:
                if not body:
                    raise GatewayError(400, "model_missing", "This path needs a JSON body with the field “model”.")
                usual = USUAL_MODELS.get(routes.plain_path(path), "")
                model, _ = model_of(body, self.head.content_type, otherwise=usual)
            found = snapshot.by_model(model, self._caller)
            if found.served_name not in ("", model):
                body = renamed(body, self.head.content_type, found.served_name)
            return found, path, body
        deployment, path = routes.resolve(snapshot, target, self._caller)
        if path == _PREFIX or path.startswith((_PREFIX + b"/", _PREFIX + b"?")):
            path = path[len(_PREFIX) :]
        return deployment, path if path.startswith(b"/") else b"/" + path, body

    def fail(self, error: GatewayError) -> None:
        body = apis.of(self.head.target).body(error, self.request_id.decode())
        lines = ((b"retry-after", b"%d" % error.retry_after_s),) if error.retry_after_s else ()
        self._reply(QueueAnswer(error.status, body, lines=lines))

    def _reply(self, answer: QueueAnswer) -> None:
        if self.done:
            return
        self.done = True
        if self._working is None:
            self._let_go()
        self.keep_alive = self.keep_alive and self.request_done
        lines = [(b"content-type", answer.content_type), (b"x-request-id", self.request_id), *answer.lines]
        lines += cross_origin.lines(self._gateway.snapshot, self.head, None)
        data = framing.own_answer(
            answer.status, lines, answer.body,
            close=not self.keep_alive, keep_alive_1_0=self.head.is_1_0 and self.keep_alive,
        )  # fmt: skip
        if self.head.method == b"HEAD" and answer.body:
            data = data[: -len(answer.body)]
        self.client.finish_exchange(self, data, monotonic())


def _too_large() -> GatewayError:
    return GatewayError(413, "body_too_large", f"The body of an asynchronous request has at most {MAX_BODY >> 20} MiB.")
