"""What is to be done with a request, remembered with its head: clients send the same ones again and again."""

from gateway.access.callers import Caller
from gateway.books import journal
from gateway.http.framing import Headers, RequestHead, request_line
from gateway.limits.limiter import Allowance, Limiter
from gateway.routing import cross_origin, model_paths
from gateway.routing.routes import path_of, plain_path, prefix_of, resolve
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import Target

# Paths whose answers carry token usage; only these bodies are read on a deployment's own address.
USAGE_PATHS = frozenset({
    b"/v1/chat/completions", b"/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/v1/responses", b"/v1/messages",
})  # fmt: skip
# Their answers are numbers, whose length says nothing of tokens.
_NUMBERS = frozenset({
    b"/v1/embeddings", b"/embeddings", b"/embedding", b"/v1/rerank", b"/v2/rerank", b"/rerank", b"/v1/reranking", b"/reranking",
    b"/v1/score", b"/score", b"/v1/classify", b"/classify", b"/pooling", b"/v1/moderations", b"/embed",
})  # fmt: skip
# With these nothing is generated. Any other method may, at whatever path an engine has for it.
_READING = frozenset({b"GET", b"HEAD", b"OPTIONS", b"DELETE"})


class Plan:
    """Where a request's head leads under one snapshot, whoever sends it.

    `target` is None where a model is named instead: in the body, or `model`, in the path or its query. `line` is the instance's head up to the request's id. `call` is the
    last one with this head: the same again needs no asking.
    """

    __slots__ = (
        "_head", "answers_text", "call", "hint", "line", "may_generate", "model", "passed", "path", "picture", "plain_path", "target", "tells_usage",
    )  # fmt: skip

    def __init__(
        self, snapshot: Snapshot, target: Target | None, path: bytes, head: RequestHead, model: str | None = None
    ) -> None:
        # Not the snapshot itself: heads are remembered for longer than it lives.
        self.picture = snapshot.picture
        self.target = target
        self.model = model
        self.path = path
        self.plain_path = plain_path(path)
        self.tells_usage = self.plain_path in USAGE_PATHS
        self.may_generate = self.tells_usage or head.method not in _READING
        self.answers_text = self.may_generate and self.plain_path not in _NUMBERS
        # What an event that tells tokens holds; None where engines have words of their own.
        self.hint = b'"usage"' if self.tells_usage else None
        self.passed = head.passed
        if self.may_generate:
            # What it uses has to be read.
            self.passed += b"accept-encoding: identity\r\n"
        elif head.accepts:
            self.passed += b"accept-encoding: %b\r\n" % head.accepts
        self.line = request_line(head.method, path, self.passed)
        self.call: Call | None = None
        self._head = head if head.origin else None

    def readers_of(self, snapshot: Snapshot, target: Target) -> Headers:
        """What is said to the browser of a page that asks."""
        return cross_origin.lines(snapshot, self._head, target) if self._head is not None else []


class Call:
    """A caller's requests by one plan to one deployment: what the books call them, what they may use, what they count.

    `counts`: tokens are estimated where an answer tells none. `counts_all`: wherever something may be generated.
    """

    __slots__ = (
        "allowance", "caller", "counts", "counts_all", "hint", "is_spent", "parties", "served_at_once", "served_by", "target",
    )  # fmt: skip

    def __init__(self, plan: Plan, caller: Caller, target: Target, limiter: Limiter, snapshot: Snapshot) -> None:
        self.caller, self.target = caller, target
        self.parties = journal.parties(
            target.deployment_id, target.version_id,
            caller.organization_id, caller.user_id, caller.key_id, caller.source,
        )  # fmt: skip
        self.allowance = limits_of(snapshot, caller, target, limiter)
        self.counts_all = target.counts_tokens or caller.organization_id in snapshot.metered
        generates = plan.may_generate and not target.is_free(plan.plain_path)
        self.counts = plan.tells_usage or (self.counts_all and generates)
        self.is_spent = self.counts and caller.organization_id in snapshot.spent
        # Which pages may read it, who serves, and how many milliseconds the request had to wait for it.
        named = f"{target.api_id}; version={target.version_number}".encode()
        readers = b"".join(b"\r\n%b: %b" % line for line in plan.readers_of(snapshot, target))
        self.served_by = b"%b\r\nx-slipway-served-by: %b\r\nx-slipway-queue-ms: " % (readers, named)
        self.served_at_once = self.served_by + b"0"
        self.hint = b'"%b"' % target.streams_tell.encode() if target.streams_tell else plan.hint

    def served(self, waited_s: float) -> bytes:
        """The lines that say it, each begun by the end of the one before."""
        return self.served_at_once if waited_s < 0.001 else b"%b%d" % (self.served_by, waited_s * 1000)


def plan_of(snapshot: Snapshot, head: RequestHead, caller: Caller) -> Plan:
    """The plan for a request of `caller`, remembered with its head for as long as the snapshot is the same."""
    path = path_of(head)
    place = model_paths.of(path)
    # An endpoint may have had a name of Azure's before there were such paths.
    if place is not None and prefix_of(path) not in snapshot.by_prefix:
        plan = Plan(snapshot, None, place[0], head, place[1])
    else:
        target, path = resolve(snapshot, path, caller)
        plan = Plan(snapshot, target, path, head)
    head.plan = plan
    return plan


def limits_of(snapshot: Snapshot, caller: Caller, target: Target, limiter: Limiter) -> Allowance | None:
    """By the limits of now: a request whose body came slowly was routed by a picture that may be older."""
    current = snapshot.by_api_id.get(target.api_id, target)
    if current.deployment_id != target.deployment_id or not current.limits:
        return None
    return limiter.allowance(current, caller)
