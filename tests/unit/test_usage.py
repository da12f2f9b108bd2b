"""Token counts from bodies and streams, however the bytes are cut."""

import itertools
import json
import os
import re
from random import Random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bodies import json_fields
from gateway.bodies.stream_options import ask_for_usage
from gateway.bodies.top_level import TopLevel
from gateway.books.answer_usage import KEPT_BYTES, AnswerUsage
from gateway.books.stream_usage import StreamUsage
from gateway.books.tokens import Tokens

EVENTS = [
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"b"}}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n',
    b"data: [DONE]\n\n",
]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(marks)]


@given(st.lists(st.integers(0, 10_000), max_size=12), st.booleans())
def test_stream_usage_is_found_and_stripped_however_it_is_cut(places, strip):
    usage = StreamUsage(strip=strip)
    passed = b"".join(usage.feed(part) for part in cut(b"".join(EVENTS), places)) + usage.finish()
    expected = EVENTS[:2] + EVENTS[3:] if strip else EVENTS
    assert passed == b"".join(expected)
    tokens = usage.tokens(100)
    assert (tokens.input, tokens.output, tokens.estimated) == (5, 2, False)


def test_a_torn_stream_is_estimated():
    usage = StreamUsage(strip=True)
    usage.feed(EVENTS[0] + EVENTS[1])
    tokens = usage.tokens(40)
    assert (tokens.input, tokens.output, tokens.estimated) == (10, 2, True)


@given(st.lists(st.integers(0, 10_000), max_size=8))
def test_body_usage(places):
    body = json.dumps(
        {
            "choices": ["x" * 6000],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "details": {"a": {"b": 1}}},
            "id": 1,
        }
    ).encode()
    usage = AnswerUsage(is_text=True)
    assert b"".join(usage.feed(part) for part in cut(body, places)) == body
    assert (usage.tokens(0).input, usage.tokens(0).output) == (7, 3)


@pytest.mark.parametrize("is_text", [True, False])
@pytest.mark.parametrize("body", [b'{"usage":', b'{"usage": 3}', b'"usage" {', b'{"choices":["told nothing"]}'])
def test_an_answer_that_tells_no_usage_is_estimated_from_its_length(body, is_text):
    usage = AnswerUsage(is_text=is_text)
    usage.feed(body)
    tokens = usage.tokens(9)
    assert (tokens.input, tokens.output, tokens.estimated) == (2, len(body) // 4 if is_text else 0, True)


@pytest.mark.parametrize("body", [b'{"usage":{"prompt_tokens":"x"}}', b'{"usage":{"prompt_tokens":-4}}'])
def test_rubbish_tells_nothing(body):
    usage = AnswerUsage(is_text=True)
    usage.feed(body)
    assert usage.tokens(9).estimated
    assert AnswerUsage(is_text=True).tokens(9) == Tokens()


TOLD = {
    "chat": ({"usage": {"prompt_tokens": 11, "completion_tokens": 3}}, Tokens(11, 3)),
    "details": (
        {"usage": {"prompt_tokens": 11, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": 2},
                   "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 1}}},
        Tokens(11, 9, 5, 4, 3),
    ),
    "responses": (
        {"usage": {"input_tokens": 11, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 8}}}, Tokens(11, 3, 8)
    ),
    "messages with a cache": (
        {"usage": {"input_tokens": 3, "cache_read_input_tokens": 6, "cache_creation_input_tokens": 2, "output_tokens": 3}},
        Tokens(11, 3, 6),
    ),
    "embeddings": ({"usage": {"prompt_tokens": 7, "total_tokens": 7}, "data": [0.5] * 9}, Tokens(7)),
    "rerank": ({"usage": {"total_tokens": 7}}, Tokens(7)),
    "Cohere's rerank": ({"meta": {"billed_units": {"search_units": 2}}, "results": []}, Tokens(units=2)),
    "DeepSeek": ({"usage": {"prompt_tokens": 9, "prompt_cache_hit_tokens": 4, "completion_tokens": 1}}, Tokens(9, 1, 4)),
    "SGLang": ({"text": "x", "meta_info": {"prompt_tokens": 5, "completion_tokens": 6, "cached_tokens": 1}}, Tokens(5, 6, 1)),
    "llama.cpp": ({"content": "x", "tokens_evaluated": 5, "tokens_predicted": 6, "timings": None}, Tokens(5, 6)),
    "llama.cpp's timings": ({"timings": {"prompt_n": 3, "cache_n": 2, "predicted_n": 6, "prompt_ms": 0.5}}, Tokens(5, 6, 2)),
    "Ollama": ({"done": True, "prompt_eval_count": 5, "eval_count": 6}, Tokens(5, 6)),
    "nothing used": ({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, Tokens()),
}  # fmt: skip
# What looks like it and isn't: within strings, deeper, as a value.
DECOYS = {
    "id": "usage", "x": [{"usage": {"prompt_tokens": 999}}], "metadata": {"usage": {"completion_tokens": 999}, "eval_count": 9},
    "text": '"usage":{"prompt_tokens":999} \\" \\\\', "tail": "usage\\", "o": {"meta": {"tokens": {"input_tokens": 99}}},
}  # fmt: skip


@pytest.mark.parametrize("filler", [0, 100_000])
@pytest.mark.parametrize("order", ["first", "last", "between"])
@pytest.mark.parametrize("name", TOLD)
def test_what_an_answer_tells_is_found_wherever_it_stands(name, order, filler):
    told, expected = TOLD[name]
    around = DECOYS | {"content": 'y\\\n"{[' * (filler // 5), "data": [{"embedding": [0.25] * (filler // 50)}]}
    halves = list(around.items())
    parts = {"first": [told, around], "last": [around, told], "between": [dict(halves[:3]), told, dict(halves[3:])]}[
        order
    ]
    document = json.dumps({key: value for part in parts for key, value in part.items()}).encode()
    for step in (len(document), 4096, 977):
        usage = AnswerUsage(is_text=True)
        for start in range(0, len(document), step):
            usage.feed(document[start : start + step])
        assert usage.tokens(5) == expected, step


def test_answers_that_come_together_are_added_up():
    document = orjson.dumps([TOLD["SGLang"][0], TOLD["SGLang"][0]])
    usage = AnswerUsage(is_text=True)
    usage.feed(document)
    assert usage.tokens(5) == Tokens(10, 12, 2)


CUTS = int(os.environ.get("SLIPWAY_FUZZ_INPUTS", "3000"))
SEPARATORS = ("\n", "\r\n", "\r")


def random_stream(random: Random) -> tuple[bytes, bytes, Tokens]:
    """(a stream with every odd shape, what the client is to see of it, what it tells)."""
    end = random.choice(SEPARATORS)
    name = random.choice([name for name in TOLD if name != "nothing used"])
    told, expected = TOLD[name]
    written, seen = [], []

    def event(payload: str, *, hidden: bool = False, more: str = "") -> None:
        # Several lines of data are one, a comment or a name may stand before it, a blank after the colon or none.
        lines = [more] if more else []
        cut = payload.find(",") + 1 if random.random() < 0.2 else 0
        for part in (payload[:cut], payload[cut:]) if cut else (payload,):
            lines.append(f"data:{random.choice(('', ' '))}{part}")
        text = "".join(line + end for line in lines) + (random.choice(SEPARATORS) if end != "\r" else end)
        written.append(text)
        if not hidden:
            seen.append(text)

    for _ in range(random.randint(0, 4)):
        kind = random.random()
        if kind < 0.2:
            written.append(f": keep-alive{end}{end}")
            seen.append(written[-1])
        elif kind < 0.4:
            event(
                json.dumps({"choices": [{"delta": {"content": json.dumps(DECOYS)}}], "usage": None}),
                more="event: delta",
            )
        else:
            event(
                json.dumps(DECOYS | {"choices": [{"delta": {"content": "[DONE]"}}]}),
                more=random.choice(("", "id: 7", ": x")),
            )
    event(json.dumps({"choices": []} | told), hidden=True)
    event("[DONE]")
    return "".join(written).encode(), "".join(seen).encode(), expected


def test_every_odd_shape_of_a_stream_tells_the_same_however_it_is_cut():
    random = Random(4711)
    for number in range(CUTS):
        stream, seen, expected = random_stream(random)
        strip = bool(number % 2)
        usage = StreamUsage(strip=strip)
        places = [random.randrange(len(stream) + 1) for _ in range(random.randint(0, 30))]
        passed = b"".join(usage.feed(part) for part in cut(stream, places)) + usage.finish()
        assert usage.tokens(5) == expected, (number, stream)
        # Of a CR LF whose LF comes late the CR alone may have ended the event.
        assert _lines(passed) == _lines(seen if strip else stream), (number, stream, passed)


def _lines(stream: bytes) -> list[bytes]:
    return [line for line in re.split(rb"\r\n?|\n", stream) if line]


def test_an_event_larger_than_memory_tells_too():
    usage = StreamUsage(strip=False)
    image = b'data: {"type":"image_generation.completed","b64_json":"' + b"A" * (3 << 20)
    end = b'","usage":{"input_tokens":7,"output_tokens":50}}\n\n'
    for start in range(0, len(image), 65_536):
        usage.feed(image[start : start + 65_536])
    usage.feed(end)
    usage.feed(b"data: [DONE]\n\n")
    assert usage.tokens(5) == Tokens(7, 50)


def test_a_large_answer_is_read_once_within_bounds(monkeypatch):
    looked, most = 0, 0
    look = TopLevel._look

    def counting(self, end):
        nonlocal looked, most
        looked, most = looked + len(self._pending), max(most, len(self._pending))
        look(self, end)

    monkeypatch.setattr(TopLevel, "_look", counting)
    for piece in (b"[", b'"usage":{', b"\\", b'"', b'{"usage":', b"x" * 50):
        looked = most = 0
        data = b"{" + piece * (400_000 // len(piece))
        usage = AnswerUsage(is_text=True)
        for start in range(0, len(data), 100):
            usage.feed(data[start : start + 100])
        usage.tokens(1)
        assert looked <= 1.1 * len(data) and most <= KEPT_BYTES + 8192 + 100, piece


def test_a_stream_by_lines_tells_at_its_end():
    usage = StreamUsage(strip=False, by_line=True)
    usage.feed(b'{"response":"a","done":false}\n{"response":"b","done":false}\n{"done":true,"prompt_eval_')
    usage.feed(b'count":5,"eval_count":6}\n')
    assert usage.tokens(5) == Tokens(5, 6)


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({"stream": True, "model": "m"}, True),
        ({"stream": False}, False),
        ({"model": "m"}, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, False),
        ({"stream": True, "stream_options": {"other": 1}}, True),
        ({"stream": True, "stream_options": None}, True),
        ({"stream": True, "stream_options": {}}, True),
        ({"stream": True, "stream_options": {"include_usage": False, "x": 1}}, True),
    ],
)
def test_usage_is_asked_for_only_when_the_client_did_not(body, asked):
    raw = b"  " + orjson.dumps(body)
    changed = ask_for_usage(raw, json_fields.of_request(raw))
    assert (changed is not None) == asked
    if changed is not None:
        parsed = orjson.loads(changed)
        assert parsed["stream_options"]["include_usage"] is True
        assert {key: value for key, value in parsed.items() if key != "stream_options"} == {
            key: value for key, value in body.items() if key != "stream_options"
        }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"{}", b'{"include_usage":true}'),
        (
            b'{ "a":123456789012345678901234567890, "a":1}',
            b'{"include_usage":true, "a":123456789012345678901234567890, "a":1}',
        ),
        (b'{"include_usage" : false}', b'{"include_usage" : true}'),
        (b"null", b'{"include_usage":true}'),
    ],
)
def test_what_was_written_stays_as_it_was(before, after):
    body = b'{"n":98765432109876543210, "stream":true,"stream_options":%b,"n":2}'
    raw = body % before
    assert ask_for_usage(raw, json_fields.of_request(raw)) == body % after


@pytest.mark.parametrize(
    "odd", [b"NaN", b'"\\ud800"', b"[" * 5000 + b"]" * 5000, b"-Infinity", b"1" * 400, b'"' + b"x" * 3_000_000 + b'"']
)
def test_what_engines_take_names_its_model_all_the_same(odd):
    raw = b'{"messages":%b,"model":"acme/chat","stream":true}' % odd
    assert json_fields.value_of(json_fields.of_request(raw).model) == "acme/chat"


def test_what_a_stream_makes_up_is_not_kept():
    usage = StreamUsage(strip=False)
    for number in range(5000):
        usage.feed(b'data: {"usage":{"k%d":1,"prompt_tokens":3}}\n\n' % number)
    assert usage.tokens(1) == Tokens(3) and len(usage._found["usage"]) == 1


def test_a_null_beside_what_is_told_hides_nothing():
    usage = StreamUsage(strip=False, hint=b'"usage"')
    chunk = b'data: {"metadata":{"usage":null},"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n\r\n'
    assert not usage.counted(chunk, 0)


def test_a_list_of_nothing_is_not_read_item_by_item():
    usage = AnswerUsage(is_text=True)
    usage.feed(b"[" + b"{}," * 50_000 + b"{}]")
    assert usage.tokens(4).estimated
