"""What is to be done with a request, as far as its head tells; remembered with the head."""

from gateway.access.callers import Caller
from gateway.http.framing import RequestHead, request_line
from gateway.limits.limiter import Allowance
from gateway.routing.routes import OPENAI_PREFIX, path_of, plain_path, resolve
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import Target

# Paths whose answers carry token usage; only these bodies are read on a deployment's own address.
USAGE_PATHS = frozenset({b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/v1/responses"})
# With these nothing is generated. Any other method may, at whatever path an engine has for it.
_READING = frozenset({b"GET", b"HEAD", b"OPTIONS", b"DELETE"})


class Plan:
    """Where a request's head leads under one snapshot.

    `target` is None where the body names the deployment. `line` is the instance's head up to the request's id. Of the
    last request with this head: who called what, what the books call him, and his limits there; the same again needs
    no asking.
    """

    __slots__ = (
        "allowance", "answers_text", "called", "caller", "hint", "line", "may_generate", "parties", "passed", "path", "plain_path", "snapshot",
        "target", "tells_usage",
    )  # fmt: skip

    def __init__(self, snapshot: Snapshot, target: Target | None, path: bytes, head: RequestHead) -> None:
        self.snapshot = snapshot
        self.target = target
        self.path = path
        self.plain_path = plain_path(path)
        self.tells_usage = self.plain_path in USAGE_PATHS
        self.may_generate = self.tells_usage or head.method not in _READING
        # An embedding's length says nothing of tokens.
        self.answers_text = self.may_generate and self.plain_path != b"/v1/embeddings"
        # What an event that tells tokens holds; None where engines have words of their own.
        self.hint = b'"usage"' if self.plain_path in USAGE_PATHS else None
        self.passed = head.passed
        if self.may_generate:
            # What it uses has to be read.
            self.passed += b"accept-encoding: identity\r\n"
        elif head.accepts:
            self.passed += b"accept-encoding: %b\r\n" % head.accepts
        self.line = request_line(head.method, path, self.passed)
        self.caller: Caller | None = None
        self.called: Target | None = None
        self.parties = b""
        self.allowance: Allowance | None = None


def plan_of(snapshot: Snapshot, head: RequestHead, caller: Caller) -> Plan:
    """The plan for a request of `caller`, remembered with its head for as long as the snapshot is the same."""
    path = path_of(head)
    if path.startswith(OPENAI_PREFIX):
        plan = Plan(snapshot, None, path, head)
    else:
        target, path = resolve(snapshot, path, caller)
        plan = Plan(snapshot, target, path, head)
    head.plan = plan
    return plan
