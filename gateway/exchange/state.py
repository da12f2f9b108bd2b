"""What is known of one request while it runs. Those who plan, send and settle it read and write it here."""

import asyncio
import math
from abc import ABC, abstractmethod
from typing import Protocol

from gateway.access.callers import ANONYMOUS, Caller
from gateway.books.journal import File
from gateway.books.tokens import Tokens
from gateway.core import Gateway
from gateway.errors import GatewayError
from gateway.exchange.held_body import HeldBody
from gateway.exchange.plan import Call, Plan
from gateway.http.address import Address
from gateway.http.client import ClientConnection
from gateway.http.framing import RequestHead
from gateway.http.upstream import AnswerHead, UpstreamConnection
from gateway.limits.limiter import Allowance
from gateway.routing.balancer import Load

# What an exchange waits for, in this order; it may skip some, and end from each.
BODY, LIMITS, CONNECTION, ANSWER, ANSWER_END, TUNNEL_END, NOTHING = range(7)


class Usage(Protocol):
    """Reads the tokens of an answer as it passes: in books/."""

    @property
    def is_between_events(self) -> bool: ...
    def counted(self, raw: bytes, start: int) -> bool: ...
    def feed(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...
    def tokens(self, prompt_bytes: int) -> Tokens: ...


class RunningAnswer(Protocol):
    """An answer that doesn't come whole: in answer.py. `paused_until` in seconds, for which the client's slowness held it up."""

    streams: bool
    has_begun: bool

    @property
    def is_paused(self) -> bool: ...
    def client_writable(self, writable: bool) -> None: ...
    def probe(self) -> None: ...
    def break_off(self, error: GatewayError) -> None: ...
    def paused_until(self, now: float) -> float: ...


class ExchangeState(ABC):
    """`holds_body`: the body is read whole before it goes on; `asking` then is what goes in its place, with a question for the
    tokens used (`asks`), and `was_refused` says that the instance did not take it. `asked_name` of a model
    that the instance serves under another one. `is_blocked`: it takes no more of the body now.
    `tried` instances took no connection. Times on the monotonic clock, 0 for what has not been.
    """

    __slots__ = (
        "address", "allowance", "answer", "answer_tokens", "asked_name", "asking", "asks", "body", "call", "caller", "client", "connecting", "connection",
        "deadline", "file", "first_byte", "forwarded", "gateway", "head", "holds_body", "is_blocked", "keep_alive", "length", "load",
        "plan", "request_done", "request_id", "reserved", "sent_body", "sequence", "started", "status", "tried", "usage", "waits_for", "was_refused",
    )  # fmt: skip

    def __init__(self, gateway: Gateway, client: ClientConnection, head: RequestHead) -> None:
        self.gateway, self.client, self.head = gateway, client, head
        self.sequence, self.request_id = gateway.next_request(head.request_id)
        # Behind a websocket's request the connection speaks another protocol, whatever becomes of it.
        self.keep_alive = head.keep_alive and not head.websocket
        self.waits_for = BODY
        self.length = head.length
        self.request_done = self.holds_body = self.is_blocked = False
        self.deadline = math.inf
        self.caller: Caller = ANONYMOUS
        self.plan: Plan | None = None
        self.call: Call | None = None
        self.body: HeldBody | None = None
        self.asking: bytes | None = None
        self.asks = self.was_refused = False
        self.asked_name = ""
        self.sent_body = 0
        self.allowance: Allowance | None = None
        # Tokens that the answer may have, then the prompt's with them; those that the limits hold for this request.
        self.answer_tokens = self.reserved = 0
        self.file: File | None = None
        self.address: Address | None = None
        self.load: Load | None = None
        self.tried: frozenset[str] = frozenset()
        self.connecting: asyncio.Task[None] | None = None
        self.connection: UpstreamConnection | None = None
        self.answer: RunningAnswer | None = None
        self.usage: Usage | None = None
        self.status = 0
        self.started = self.forwarded = self.first_byte = 0.0

    @property
    def is_over(self) -> bool:
        return self.waits_for == NOTHING

    # From the instance (AnswerTaker), until an answer of its own takes over

    @abstractmethod
    def whole_answer(self, connection: UpstreamConnection, head: AnswerHead, data: bytes, start: int) -> bool: ...
    @abstractmethod
    def progressed(self, connection: UpstreamConnection) -> None: ...
    @abstractmethod
    def chunk_came(self, connection: UpstreamConnection, raw: bytes, start: int) -> None: ...
    @abstractmethod
    def switched_protocols(self, connection: UpstreamConnection, rest: bytes) -> None: ...
    @abstractmethod
    def tunnelled(self, data: bytes) -> None: ...
    @abstractmethod
    def upstream_lost(self, *, answered: bool, ended_by_close: bool) -> None: ...
    @abstractmethod
    def upstream_writable(self, writable: bool) -> None: ...
