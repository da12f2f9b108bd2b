"""Generated nonsense for each reader of outside bytes: it is read or refused, never with another error, and in linear time.

SLIPWAY_FUZZ_INPUTS says how many for each (1,000,000 before a release: `SLIPWAY_FUZZ_INPUTS=1000000 pytest tests/security/test_fuzz.py`).
Pieces of the format itself are put together at random, cut and mixed with other bytes; the seed is in the test's name.
"""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

import pytest

from async_inference import options
from common import identity_token
from common.proxies import Forwarded, origin
from gateway.bodies import json_fields, multipart
from gateway.bodies.stream_options import ask_for_usage
from gateway.books.answer_usage import AnswerUsage
from gateway.books.stream_usage import StreamUsage
from gateway.errors import GatewayError
from runtimes import model_source
from runtimes.engines import metrics
from runtimes.kubernetes import gpus, kubeconfig, logs, nodes, usage
from runtimes.local.instance_folder import LINE_BYTES
from tests.security.watched import Looks, watched

INPUTS = int(os.environ.get("SLIPWAY_FUZZ_INPUTS", "3000"))
SEED = int(os.environ.get("SLIPWAY_FUZZ_SEED", "4711"))
LOOKS_PER_BYTE = 8
FORM = b"multipart/form-data; boundary=x"


@dataclass(frozen=True)
class Reader:
    """`read` may raise `refuses` and nothing else. Those of bytes are given ones that count how often they are looked at."""

    pieces: tuple[bytes, ...]
    read: Callable[[Any], object]
    refuses: tuple[type[Exception], ...] = ()
    is_counted: bool = False
    is_text: bool = False


def _stream(data: bytes) -> None:
    cut = len(data) // 3
    for strip in (True, False):
        stream = StreamUsage(strip=strip)
        passed = [stream.feed(data[:cut]), stream.feed(data[cut:]), stream.finish()]
        stream.tokens(10)
        # Nothing is lost, and with `strip` only whole events of usage are taken out.
        assert strip or b"".join(map(bytes, passed)) == bytes(data)


def _body(data: bytes) -> None:
    body = AnswerUsage(is_text=False)
    body.feed(data)
    body.finish()
    body.tokens(10)


def _request(data: bytes) -> None:
    fields = json_fields.of_request(data)
    for raw in (fields.model, fields.stream):
        if json_fields.is_given(raw):
            json_fields.value_of(raw)
    ask_for_usage(data, fields)


def _lines(data: bytes) -> None:
    last = 0
    for line in logs.positioned(data.split(b"\n"), after=0):
        assert line.position > last and len(line.text) <= 3 * len(data) + 40
        last = line.position


READERS = {
    "multipart": Reader(
        (b"--x", b"\r\n", b"--x--", b'Content-Disposition: form-data; name="model"', b"\r\n\r\n", b'"', b";", b"name=", b"acme/chat", b"\\", b"-", b":", b"\x00", b"\xff"),
        lambda data: multipart.field(data, FORM, b"model"), (GatewayError,), is_counted=True,
    ),
    "request": Reader(
        (b"{", b"}", b'"model"', b":", b'"a"', b",", b'"stream"', b"true", b"[", b"]", b"1e999", b"\\u0000", b'"stream_options"', b"null", b"-", b"\xef\xbb\xbf", b"\xff", b" ", b'{"include_usage":true}'),
        # Malformed, or no object: its caller says so with a 400.
        _request, (GatewayError, ValueError),
    ),
    "events": Reader(
        (b"data: ", b"\n\n", b"\r\n\r\n", b"\n", b"\r", b'{"usage":', b'{"prompt_tokens":3,"completion_tokens":9}', b"}", b"[DONE]", b'"usage"', b"{", b"[", b"9" * 400, b"-1", b"1e400", b'"choices":[]', b",", b"\xff", b":"),
        _stream,
    ),
    "answer": Reader(
        (b"{", b"}", b'"usage":', b'{"prompt_tokens":', b"3", b"9" * 5000, b"-", b"1e308", b"null", b",", b'"completion_tokens":', b"[", b"]", b'"', b"\\", b"\xff"),
        _body,
    ),
    "log": Reader(
        (b"2026-06-15T12:00:00.123456789Z ", b"9999-12-31T23:59:59Z ", b"0001-01-01T00:00:00Z ", b"text", b"\n", b"\xff", b"\x00", b" ", b"Z", b"." + b"9" * 40, b"x" * (LINE_BYTES // 64), b"2026-13-45T99:99:99Z "),
        _lines,
    ),
    "kubeconfig": Reader(
        (b"apiVersion: v1\n", b"kind: Config\n", b"current-context: c\n", b"contexts: [{name: c, context: {cluster: k, user: u}}]\n", b'clusters: [{name: k, cluster: {server: "https://h"}}]\n', b"users: [{name: u, user: {token: t}}]\n", b"- ", b"&a ", b"*a ", b"!!python/object:os.system ", b"|\n", b"{", b"[", b"? ", b": ", b"\t", b"exec: {}\n", b"\xff", b"\n  ", b"'", b'"', b"%", b"\x00"),
        kubeconfig.read, (kubeconfig.KubeconfigError,), is_text=True,
    ),
    "quantity": Reader(
        (b"1", b"0", b".", b"e", b"E", b"Ki", b"Mi", b"Ei", b"m", b"n", b"-", b"+", b"9" * 30, b"inf", b"nan", b"_", b" ", b"1e999999999", b"\xd9\xa3"),
        lambda text: (int(nodes.quantity(text)), float(nodes.quantity(text))), is_text=True,
    ),
    "cadvisor": Reader(
        (b"container_cpu_user_seconds_total", b"container_memory_working_set_bytes", b"container_start_time_seconds", b"container_cpu_system_seconds_total", b"{", b"}", b'container="engine"', b',pod="p"', b',namespaces={"n"}', b" ", b"1", b"NaN", b"+Inf", b"1e400", b"\n", b"1781524800000", b"9" * 400, b'"', b"\\", b"x"),
        lambda text: list(usage.parse(text, namespaces={"n"}, now=1.0)), is_text=True,
    ),
    "gpus": Reader(
        (b"DCGM_FI_DEV_GPU_UTIL", b"DCGM_FI_DEV_FB_USED", b"DCGM_FI_DEV_FB_FREE", b"{", b"}", b'gpu="0"', b'gpu="\xc2\xb2"', b',pod="p"', b',namespaces={"n"}', b" ", b"1", b"NaN", b"+Inf", b"1e308", b"\n", b'"', b"\\", b'GPU_I_ID="1"', b"9" * 5000),
        lambda text: gpus.parse(text, namespaces={"n"}), is_text=True,
    ),
    "engine's page": Reader(
        (b"vllm:num_requests_running", b"vllm:kv_cache_usage_perc", b"sglang:token_usage", b"{", b"}", b'model="x"', b" ", b"1", b"NaN", b"-Inf", b"1e400", b"\n", b"_bucket{", b"te_queue_size", b"9" * 400),
        metrics.parse, is_text=True,
    ),
    "model's address": Reader(
        (b"pvc://", b"s3://", b"a", b"/", b"..", b"?", b"endpoint=", b"https://h", b"&", b"region=", b"%2e", b":", b"@", b"[", b"]", b"\xff", b"\x00", b"a=1&" * 50),
        model_source.read, (model_source.SourceError,), is_text=True,
    ),
    "forwarded": Reader(
        (b"10.0.0.7", b"1.2.3.4", b"[2001:db8::1]:80", b"fe80::1%eth0", b",", b";", b"https", b'"', b"\\", b" ", b"unknown", b"_x", b"\xff", b"for=" * 20),
        lambda text: origin("10.0.0.1", Forwarded(chain=text, scheme=text, host=text), [ip_network("10.0.0.0/8")]), is_text=True,
    ),
    "identity": Reader(
        (b"eyJ", b".", b"WzEsMiwzXQ", b"=", b"-", b"_", b"a", b"0" * 64, b"\xc3\xa9", b"\x00"),
        lambda text: identity_token.read(text, keys=["k"], now=1.0), is_text=True,
    ),
    "options": Reader(
        (b"1", b"-", b"9" * 40, b"https://h.example/x", b"http://", b"[", b"\x00", b"\xc3\xa9", b" ", b"1e9", b"0x1", b"\xd9\xa3"),
        lambda text: options.read(dict.fromkeys((options.PRIORITY, options.QUEUE_S, options.WEBHOOK, options.RETRIES), text), webhook_networks=()),
        (options.InvalidOptionError,), is_text=True,
    ),
}  # fmt: skip


def inputs(pieces: tuple[bytes, ...], count: int, chance: random.Random) -> Iterator[bytes]:
    for _ in range(count):
        data = b"".join(chance.choices(pieces, k=chance.randrange(1, 40)))
        if chance.random() < 0.3:
            place = chance.randrange(len(data) + 1)
            data = data[:place] + chance.randbytes(chance.randrange(4)) + data[place + chance.randrange(3) :]
        yield data


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", READERS)
def test_nonsense_is_read_or_refused(name):
    reader, chance = READERS[name], random.Random(f"{SEED} {name}")
    looks = Looks()
    kind, _ = watched(looks)
    for data in inputs(reader.pieces, INPUTS, chance):
        given: Any = data.decode(errors="replace") if reader.is_text else kind(data) if reader.is_counted else data
        before = looks.bytes
        try:
            reader.read(given)
        except reader.refuses:
            pass
        except Exception as error:
            raise AssertionError(
                f"{name} (seed {SEED}) fails with {type(error).__name__}: {error} at {data!r}"
            ) from error
        assert looks.bytes - before <= LOOKS_PER_BYTE * len(data) + 1024


def test_a_line_without_end_is_left_out():
    """A pod that poses as an exporter: else its page would be searched for hours."""
    endless = "DCGM_FI_DEV_GPU_UTIL{" + "a" * (4 << 20) + "} 1\n"
    good = 'DCGM_FI_DEV_GPU_UTIL{gpu="0",pod="p",namespace="n"}} 7\n'
    assert gpus.parse(endless + good, namespaces={"n"})["p"][0].utilization == 7
    endless = 'container_cpu_user_seconds_total{container="engine",namespaces={"n"}' + ',pod="' * (1 << 20) + "} 1\n"
    assert not list(usage.parse(endless, namespaces={"n"}, now=1.0))


def test_amounts_that_nothing_can_have_are_none():
    assert nodes.quantity("1e999999999") == nodes.quantity("xKi") == nodes.quantity("NaN") == 0
    assert nodes.quantity("2Gi") == 2 << 30 and nodes.quantity("100m") * 10 == 1
