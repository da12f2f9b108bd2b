"""What the gateway refuses, and that a strict server would read what it passes on just as the client's strict reader did."""

import asyncio
import os
import random

import psutil
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.installation_keys import FixedKeys
from gateway.core import Gateway
from gateway.http import client as server
from gateway.http import upstream
from gateway.http.address import Address
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import Target
from tests.gateway.corpus import HIDDEN, IGNORED_OFFERS, OK, REFUSED, TORN
from tests.gateway.wire import Passed, Wire, strictly_read

pytestmark = pytest.mark.asyncio


def make_gateway(folder) -> Gateway:
    gateway = Gateway(folder, FixedKeys.of("secret"), name="wire", epoch=1)
    address = Address("00" * 15 + "01", "127.0.0.1", 1)
    target = Target(7, 3, "acme/chat", "main", "chat", 11, "running", "Running", "", "", 0, (address,))
    gateway.set_snapshot(Snapshot.of(1, [target]))
    return gateway


@pytest_asyncio.fixture
async def gateway(tmp_path):
    made = make_gateway(tmp_path)
    yield made
    assert made.in_flight == 0, "a request was left in the books"


@pytest.fixture(autouse=True)
def _forget_heads():
    for memory in (server._KNOWN_HEADS, upstream._KNOWN_HEADS):
        memory.clear()


@pytest.mark.parametrize("in_bytes", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(("raw", "status"), REFUSED.values(), ids=REFUSED)
async def test_the_corpus_is_refused(gateway, raw, status, in_bytes):
    if in_bytes and len(raw) > 5000:
        pytest.skip("says nothing new, takes long")
    wire = Wire(gateway)
    await wire.send(raw, range(len(raw)) if in_bytes else ())
    assert wire.statuses == [status]
    assert not wire.instances.passed and not wire.instances.torn
    await wire.close()


@pytest.mark.parametrize("in_bytes", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("raw", IGNORED_OFFERS.values(), ids=IGNORED_OFFERS)
async def test_offers_are_ignored_and_what_follows_is_the_next_request(gateway, raw, in_bytes):
    wire = Wire(gateway)
    data = raw + HIDDEN
    await wire.send(data, range(len(data)) if in_bytes else ())
    assert wire.statuses == [200, 200]
    first, second = wire.instances.passed
    assert second.target == b"/hidden" and not wire.instances.torn
    names = {name for name, _ in first.headers}
    assert names.isdisjoint({b"upgrade", b"connection", b"http2-settings"})
    await wire.close()


@pytest.mark.parametrize("raw", TORN.values(), ids=TORN)
async def test_a_broken_body_is_never_passed_on_as_whole(gateway, raw):
    wire = Wire(gateway)
    await wire.send(raw)
    assert not wire.instances.passed and not wire.instances.torn
    await wire.close()


@pytest.mark.parametrize("raw", [*(raw for raw, _ in REFUSED.values()), *TORN.values()], ids=[*REFUSED, *TORN])
async def test_nothing_behind_a_refused_request_is_executed(gateway, raw):
    wire = Wire(gateway)
    await wire.send(raw + OK)
    assert all(passed.target != b"/hidden" for passed in wire.instances.passed)
    assert len(wire.statuses) <= 1
    await wire.close()


# Requests that every server understands.

TOKEN = st.text(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=12
)
VALUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)
OURS = ("host", "content-length", "transfer-encoding", "connection", "upgrade", "expect", "trailer", "te", "keep-alive")
HEADERS = st.lists(st.tuples(TOKEN.filter(lambda name: name.lower() not in OURS), VALUE), max_size=6)
PATH = st.text("abcXYZ019-._~!$&'()*+,;=:@/%", max_size=20).map(lambda text: text.replace("%", "%41"))


@st.composite
def good_request(draw) -> tuple[bytes, Passed]:
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"]))
    path = b"/" + draw(PATH).encode()
    body = draw(st.binary(max_size=300)) if method in (b"POST", b"PUT", b"PATCH") else None
    lines = [(b"Host", b"a.example"), *((name.encode(), value.encode()) for name, value in draw(HEADERS))]
    framed = b""
    if body is not None and draw(st.booleans()):
        lines.append((b"Content-Length", b"%d" % len(body)))
        framed = body
    elif body is not None:
        lines.append((b"Transfer-Encoding", draw(st.sampled_from([b"chunked", b"Chunked", b"CHUNKED"]))))
        cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
        parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b]
        extension = draw(st.sampled_from([b"", b";a=b", b';q="x"']))
        framed = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts) + b"0\r\n"
        framed += b"X-Trailer: dropped\r\n\r\n" if draw(st.booleans()) else b"\r\n"
    draw(st.randoms(use_true_random=False)).shuffle(lines)
    separator = draw(st.sampled_from([b": ", b":", b":  ", b":\t"]))
    head = b"%b /main/chat%b HTTP/1.1\r\n" % (method, path) + b"".join(
        name + separator + value + b"\r\n" for name, value in lines
    )
    return head + b"\r\n" + framed, Passed(method, path, body or b"")


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(good_request(), min_size=1, max_size=4), st.lists(st.integers(0, 5000), max_size=6))
def test_good_requests_arrive_as_they_were_sent(tmp_path_factory, requests, cuts):
    async def exchange():
        gateway = make_gateway(tmp_path_factory.mktemp("wire"))
        wire = Wire(gateway)
        await wire.send(b"".join(raw for raw, _ in requests), cuts)
        assert wire.statuses == [200] * len(requests)
        arrived = [Passed(item.method, item.target, item.body) for item in wire.instances.passed]
        assert arrived == [expected for _, expected in requests]
        for item in wire.instances.passed:
            names = [name for name, _ in item.headers]
            assert not {b"connection", b"x-trailer", b"keep-alive"} & set(names)
            assert names.count(b"host") == names.count(b"x-request-id") == 1
        await wire.close()
        gateway.journal.close()
        assert gateway.in_flight == 0

    asyncio.run(exchange())


# Requests made of pieces that servers quarrel about.

SEEDS = [raw for raw, _ in REFUSED.values() if len(raw) < 1000] + [raw for raw in TORN.values() if len(raw) < 1000] + [
    OK,
    OK * 3,
    b"POST /main/chat/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + OK,
    b"POST /main/chat/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n" + OK,
    b'POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 16\r\n\r\n{"model":"chat"}' + OK,
    b"GET /main/chat/x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" + OK,
    b"GET /main/chat/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + OK,
    b"HEAD /main/chat/x HTTP/1.1\r\nHost: a\r\n\r\n" + OK,
    b"GET http://a/main/chat/x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /main/chat/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + OK,
]  # fmt: skip
SPICE = [b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"\xff", b"\x0b", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
         b"0\r\n\r\n", b"Host: b\r\n", b"Connection: close, x\r\n", b"HTTP/1.1", b"Expect: 100-continue\r\n", OK]  # fmt: skip


def spoil(raw: bytes, dice: random.Random) -> bytes:
    data = bytearray(raw)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(4):
            case 0:
                data[at:at] = dice.choice(SPICE)
            case 1:
                del data[at : at + dice.randint(1, 6)]
            case 2 if at < len(data):
                data[at] = dice.randrange(256)
            case _:
                other = dice.choice(SEEDS)
                data[at:at] = other[: dice.randrange(len(other))]
    return bytes(data)


async def test_spoiled_requests_are_never_passed_on_where_a_strict_server_refuses(gateway):
    """SLIPWAY_FUZZ_CASES sets how many; a million take about ten minutes."""
    cases = int(os.environ.get("SLIPWAY_FUZZ_CASES", "5000"))
    dice = random.Random(int(os.environ.get("SLIPWAY_FUZZ_SEED", "1")))
    base = 0
    for number in range(cases):
        raw = spoil(dice.choice(SEEDS), dice)
        cuts = [dice.randrange(len(raw) + 1) for _ in range(dice.randrange(3))] if raw else []
        wire = Wire(gateway)
        await wire.send(raw, cuts)
        assert not wire.instances.torn, raw
        if not any(b"upgrade: websocket" in line.lower() for line in raw.split(b"\r\n")):
            # In order, and none twice; some are answered by the gateway itself.
            sound = iter(_whole_prefix(raw))
            for passed in wire.instances.passed:
                match = (passed.method, passed.body)
                assert any((item.method, item.body) == match for item in sound), (raw, passed)
        assert all(status < 500 or status in (501, 505) for status in wire.status_lines), (raw, wire.status_lines)
        await wire.close()
        assert gateway.in_flight == 0 and not gateway.connections, raw
        if number == cases // 5:
            base = psutil.Process().memory_info().rss
    grown = psutil.Process().memory_info().rss - base
    assert grown < 16 << 20, f"{grown} bytes more than after the first fifth"


def _whole_prefix(raw: bytes) -> list[Passed]:
    """The requests at the beginning of `raw` that a strict server takes, up to the first that it refuses."""
    found = strictly_read(raw)
    if found is not None:
        return found
    low, requests = 0, []
    for end in range(1, len(raw) + 1):
        part = strictly_read(raw[low:end])
        if part:
            requests += part
            low = end
    return requests
