"""What clients and instances send is read in linear time, whatever it says: counted in bytes looked at, not by a clock."""

import asyncio
from collections.abc import Callable

import pytest
import pytest_asyncio

from gateway.bodies import json_fields, multipart
from gateway.bodies.stream_options import ask_for_usage
from gateway.books import stream_usage
from gateway.books.stream_usage import MOST_EVENT_BYTES, StreamUsage
from gateway.errors import GatewayError
from gateway.exchange import request_body
from gateway.http import client as server
from gateway.http.framing import MAX_HEAD_BYTES
from gateway.listener import accept
from tests.gateway.wire import MemoryTransport
from tests.security.watched import Looks, WatchedPattern, watched

# A hostile byte may cost this many looks: searches for two things, a copy of what is kept, one of what is passed on.
LOOKS_PER_BYTE = 8
SIZES = (1 << 12, 1 << 15, 1 << 18)
FORM = b"multipart/form-data; boundary=x"


def looks_of(read: Callable[[bytes], object], data: bytes, looks: Looks) -> int:
    before = looks.bytes
    read(data)
    return looks.bytes - before


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "piece",
    [
        b'name="model"\r\n', b"--x\r\n", b"\r\n--x", b"--x\r\n\r\n", b"\r\n\r\n", b"-", b"--x\r\na: b\r\n\r\nv\r\n",
        b'--x\r\ncontent-disposition: form-data; name="other"\r\n\r\n', b";name=", b'"',
    ],
)  # fmt: skip
def test_a_form_is_searched_once(piece, size):
    looks = Looks()
    kind, _ = watched(looks)

    def read(data: bytes) -> None:
        try:
            multipart.field(data, FORM, b"model")
        except GatewayError as error:
            assert error.status == 400

    data = kind(b"--x\r\n" + piece * (size // len(piece)))
    assert looks_of(read, data, looks) <= LOOKS_PER_BYTE * len(data) + 1024


def test_fields_of_forms_are_found():
    body = (
        b'preamble\r\n--x\r\nContent-Disposition: form-data; name="file"; filename="model"\r\n\r\n--y\r\n\r\nname="model"\r\n\r\nno\r\n'
        b"--x\r\nX-A: b\r\ncontent-disposition:form-data;name=model\r\n\r\nacme/chat\r\n--x--\r\n"
    )
    assert multipart.field(body, FORM, b"model") == b"acme/chat"
    assert multipart.field(body, FORM, b"none") is None
    odd = (
        # Neither a file of that name, nor what a file is called or holds; nor a line that only begins like a boundary.
        b'--x\r\nContent-Disposition: form-data; name="model"; filename="f"\r\n\r\nfile\r\n'
        b'--x\r\nContent-Disposition: form-data; filename="a; name=model"; name="file"\r\n\r\n'
        b'--xy\r\nContent-Disposition: form-data; name="model"\r\n\r\ninside\r\n--x y\r\n'
        b'--x \t\r\nContent-Disposition: form-data; name="model"; size=3; x="\\"; name=b"\r\n\r\nright\r\n--x--\r\nname="model"'
    )
    assert multipart.field(odd, FORM, b"model") == b"right"
    assert (
        multipart.field(b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n\r\n--x--', FORM, b"model") == b""
    )
    assert multipart.field(body, b'multipart/form-data; charset=a; BOUNDARY="x"', b"model") == b"acme/chat"
    with pytest.raises(GatewayError, match="boundary"):
        multipart.field(body, b"multipart/form-data", b"model")
    with pytest.raises(GatewayError, match="parts"):
        multipart.field(b"--x\r\na: b\r\n\r\nv\r\n" * 1001, FORM, b"model")


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"a":' * 100_000, b'{"model":["m"],"a":' + b"[" * 5000 + b"]" * 5000 + b"}"],
)
def test_what_is_nested_without_end_is_refused_for_people(body):
    with pytest.raises(GatewayError) as refused:
        request_body.model_of(body, b"application/json")
    assert refused.value.status == 400 and refused.value.code in ("body_not_json", "model_missing")


def test_fields_of_a_body_are_read_without_building_it():
    body = b'{"messages":[' + b"[]," * 300_000 + b'1],"mod\\u0065l":"acme/chat","stream":true,"max_tokens":7}'
    fields = json_fields.of_request(body)
    assert json_fields.value_of(fields.model) == "acme/chat" and request_body.longest_answer(fields) == 7
    asking = ask_for_usage(body, fields)
    assert asking is not None and asking.startswith(b'{"stream_options":{"include_usage":true},"messages"')


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (b"null", b'{"include_usage":true}'),
        (b'{"include_usage":false,"x":1}', b'{"include_usage":true,"x":1}'),
        (b'{"include_usage":true}', None),
        (b'{"x":"' + b"y" * 5000 + b'"}', b'{"include_usage":true,"x":"' + b"y" * 5000 + b'"}'),
    ],
)
def test_the_question_for_usage_takes_the_place_of_what_was_asked(given, asked):
    body = b'{"a":{"stream_options":%b},"stream_options": %b ,"stream":true}' % (given, given)
    found = ask_for_usage(body, json_fields.of_request(body))
    expected = (
        None if asked is None else b'{"a":{"stream_options":%b},"stream_options": %b ,"stream":true}' % (given, asked)
    )
    assert found == expected


@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("step", [1, 7, 4096])
@pytest.mark.parametrize(
    "piece", [b"data: x\n", b"\n", b"\r\n", b"\r", b'"usage"', b"data: {}\n\n", b'data: {"usage":[[', b"x"]
)
def test_a_stream_of_events_is_searched_once_and_held_within_bounds(monkeypatch, strip, step, piece):
    looks = Looks()
    kind, array = watched(looks)
    monkeypatch.setattr(stream_usage, "bytearray", array, raising=False)
    monkeypatch.setattr(stream_usage, "MOST_EVENT_BYTES", 20_000)
    monkeypatch.setattr(stream_usage, "_BLANK_LINE", WatchedPattern(stream_usage._BLANK_LINE, looks))
    data = piece * (100_000 // len(piece))
    stream = StreamUsage(strip=strip)
    passed, most = [], 0
    for start in range(0, len(data), step):
        passed.append(stream.feed(kind(data[start : start + step])))
        most = max(most, len(stream._held))
    passed.append(stream.finish())
    assert b"".join(passed) == data
    assert most <= 20_000 + step
    # Two bytes before what is new are looked at again.
    assert looks.bytes <= LOOKS_PER_BYTE * len(data) * (2 if step < 8 else 1)


def test_behind_an_event_that_is_too_long_usage_is_read_again():
    stream = StreamUsage(strip=True)
    long = b"data: " + b"x" * (MOST_EVENT_BYTES + 5)
    told = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9}}\n\n'
    assert stream.feed(long) == long
    assert stream.feed(b"y\n") == b"y\n" and stream.feed(b"\ndata: {}\n\n" + told) == b"\ndata: {}\n\n"
    assert stream.finish() == b"" and (stream.tokens(1).input, stream.tokens(1).output) == (3, 9)
    estimated = StreamUsage(strip=False)
    estimated.feed(long)
    assert estimated.tokens(40).estimated and estimated.tokens(40).output >= MOST_EVENT_BYTES // 4


@pytest_asyncio.fixture
async def connection(gateway):
    await gateway.start()
    made = accept(gateway.core)
    transport = MemoryTransport()
    transport.protocol = made
    made.connection_made(transport)
    return made


@pytest.mark.asyncio
@pytest.mark.parametrize("step", [1, 100, 65536])
@pytest.mark.parametrize("piece", [b"a: b\r\n", b"x" * 50, b"a:\r\n"])
async def test_a_head_is_looked_at_once_however_it_comes(connection, monkeypatch, piece, step):
    looks = Looks()
    kind, array = watched(looks)
    connection._held = array()
    data = b"GET / HTTP/1.1\r\n" + piece * (MAX_HEAD_BYTES // len(piece) - 10)
    for start in range(0, len(data), step):
        connection.data_received(kind(data[start : start + step]))
    assert len(connection._held) == len(data)
    # Three bytes before what is new are looked at again, by each of the four searches.
    assert looks.bytes <= LOOKS_PER_BYTE * len(data) * (3 if step == 1 else 1)


@pytest.mark.asyncio
@pytest.mark.parametrize("step", [3, 1000, 262_144])
@pytest.mark.parametrize("inside", [b"\r\n\r\n", b"\r", b"0\r\n\r\n", b"x" * 1000])
async def test_a_body_in_chunks_is_looked_at_once_however_it_comes(connection, monkeypatch, inside, step):
    looks = Looks()
    kind, _ = watched(looks)
    fed = 0
    plain = connection._parse

    def parse(parser, data):
        nonlocal fed
        fed += len(data)
        plain(parser, data)

    monkeypatch.setattr(connection, "_parse", parse)
    connection.data_received(b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"%x\r\n%b\r\n" % (len(inside), inside)
    data = chunk * (200_000 // len(chunk))
    fed = 0
    for start in range(0, len(data), step):
        connection.data_received(kind(data[start : start + step]))
    assert connection._in_body and fed == len(data)
    assert looks.bytes <= LOOKS_PER_BYTE * len(data)
    assert b"".join(connection._exchange.body.pieces) == inside * (200_000 // len(chunk))
    connection.data_received(b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    assert connection._exchange is None or connection._exchange.request_done


def test_servers_bounds_are_those_that_the_docs_tell():
    assert (MAX_HEAD_BYTES, MOST_EVENT_BYTES, server.AHEAD_LIMIT) == (64 << 10, 1 << 20, 64 << 10)


@pytest.mark.asyncio
@pytest.mark.parametrize("cut", range(1, 12))
async def test_what_comes_behind_a_body_in_chunks_is_read_wherever_the_reads_are_cut(connection, cut):
    """The end of one request is the beginning of the next: a byte too many would make another request of it."""
    body = b"0\r\n\r\n"
    following = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /healthz HTTP/1.1\r\nHost: b\r\n\r\n"
    data = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body + following
    at = data.index(body) + cut
    for part in (data[:at], data[at:]):
        connection.data_received(part)
    for _ in range(20):
        await asyncio.sleep(0)
    assert connection.transport.written.count(b"HTTP/1.1 200") == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("line", [b"0\r\nX: ", b"5;", b"0" * 10])
async def test_a_line_of_a_bodys_framing_has_an_end(connection, line):
    connection.data_received(b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + line)
    for _ in range(40):
        connection.data_received(b"a" * 8192 if line.endswith((b": ", b";")) else b"0" * 8192)
        if connection._lingering or connection._closing or connection.transport.closing:
            break
    assert b"HTTP/1.1 4" in connection.transport.written


def test_options_that_are_nested_deeply_stay_as_they_are():
    nested = b"[" * 300 + b"]" * 300
    body = b'{"stream":true,"stream_options":{"x":%b}}' % nested
    assert ask_for_usage(body, json_fields.of_request(body)) == (
        b'{"stream":true,"stream_options":{"include_usage":true,"x":%b}}' % nested
    )


@pytest.mark.parametrize("stream", [b"1", b'"true"', b'"yes"'])
def test_whatever_an_engine_may_take_for_a_stream_is_asked_for_usage(stream):
    body = b'{"stream":%b,"stream_options":{"include_usage":"false"}}' % stream
    asked = ask_for_usage(body, json_fields.of_request(body))
    assert asked is not None and b'"include_usage":true' in asked
