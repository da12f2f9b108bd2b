"""Token counts from bodies and streams, however the bytes are cut."""

import itertools
import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bodies import json_fields
from gateway.books.usage import BodyUsage, StreamUsage, ask_for_usage

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
    usage = BodyUsage(is_text=True)
    assert b"".join(usage.feed(part) for part in cut(body, places)) == body
    assert (usage.tokens(0).input, usage.tokens(0).output) == (7, 3)


@pytest.mark.parametrize("is_text", [True, False])
@pytest.mark.parametrize("body", [b'{"usage":', b'{"usage": 3}', b'"usage" {', b'{"choices":["told nothing"]}'])
def test_an_answer_that_tells_no_usage_is_estimated_from_its_length(body, is_text):
    usage = BodyUsage(is_text=is_text)
    usage.feed(body)
    tokens = usage.tokens(9)
    assert (tokens.input, tokens.output, tokens.estimated) == (2, len(body) // 4 if is_text else 0, True)


@pytest.mark.parametrize("body", [b"", b'{"usage":{"prompt_tokens":"x"}}', b'{"usage":{"prompt_tokens":-4}}'])
def test_rubbish_counts_nothing(body):
    usage = BodyUsage(is_text=True)
    usage.feed(body)
    assert (usage.tokens(9).input, usage.tokens(9).output) == (0, 0)


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({"stream": True, "model": "m"}, True),
        ({"stream": False}, False),
        ({"model": "m"}, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, False),
        ({"stream": True, "stream_options": {"other": 1}}, True),
        ({"stream": True, "stream_options": None}, True),
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
