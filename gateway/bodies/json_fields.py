"""The few fields of a JSON body or event that the gateway goes by, read in one pass and without building the document.

What isn't asked for is skipped where it stands: a body of nothing but brackets costs neither time nor memory that differs
from that of text.
"""

import contextlib
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import orjson
from msgspec import Raw

from gateway.bodies.top_level import TopLevel

_NOTHING = Raw()
# What a field of ours may be at most to be looked into, in bytes.
LONGEST_VALUE = 4096
# What is looked at more closely where it isn't quite JSON: that costs much more.
MOST_BESIDE = 256 << 10


# Answers in one list.
MOST_TOGETHER = 1000


class RequestFields(msgspec.Struct, gc=False):
    model: Raw = _NOTHING
    stream: Raw = _NOTHING
    stream_options: Raw = _NOTHING
    max_completion_tokens: Raw = _NOTHING
    max_tokens: Raw = _NOTHING
    max_output_tokens: Raw = _NOTHING


class OptionFields(msgspec.Struct, gc=False):
    include_usage: Raw = _NOTHING


class AnswerFields(msgspec.Struct, gc=False):
    """Of an answer: all names under which engines tell tokens."""

    usage: Raw = _NOTHING
    meta: Raw = _NOTHING
    meta_info: Raw = _NOTHING
    timings: Raw = _NOTHING
    tokens_evaluated: Raw = _NOTHING
    tokens_predicted: Raw = _NOTHING
    prompt_eval_count: Raw = _NOTHING
    eval_count: Raw = _NOTHING


class EventFields(AnswerFields, gc=False):
    """Of an event of a stream: the same at its top for chats and completions, below `response` for responses, and below
    `message` for messages."""

    choices: Raw = _NOTHING
    response: Raw = _NOTHING
    message: Raw = _NOTHING


class PlainRequest(msgspec.Struct, gc=False):
    """RequestFields as nearly all requests have them: each of its own type."""

    model: str = ""
    stream: bool | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    max_output_tokens: int | None = None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class PlainUsage(msgspec.Struct, gc=False):
    """The tokens of an answer as nearly all tell them."""

    prompt_tokens: int = -1
    completion_tokens: int = -1
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _PlainAnswer(msgspec.Struct, gc=False):
    usage: PlainUsage | None = None


class NotAnObjectError(ValueError):
    """It is JSON, but no object: nothing is missing from it that it could have had."""


_request, _event = msgspec.json.Decoder(RequestFields), msgspec.json.Decoder(EventFields)
_options = msgspec.json.Decoder(OptionFields)
_answer, _answers = msgspec.json.Decoder(AnswerFields), msgspec.json.Decoder(list[AnswerFields])
_plain_request, _plain_answer = msgspec.json.Decoder(PlainRequest), msgspec.json.Decoder(_PlainAnswer)
_ANSWER_NAMES = AnswerFields.__struct_fields__


def of_request(body: bytes) -> RequestFields:
    """Raises ValueError that says what is wrong with it, NotAnObjectError where it is another kind of JSON.

    Engines take more than the standard has, NaN and deeper nesting among it: where the fields can be told all the same, the
    rest is theirs to judge.
    """
    try:
        return _request.decode(body)
    except msgspec.ValidationError:
        raise NotAnObjectError from None
    except msgspec.DecodeError as error:
        problem = str(error)
    except RecursionError:
        problem = "it is nested too deeply"
    found = _beside(body) if len(body) <= MOST_BESIDE else None
    if found is None or not is_given(found.model):
        raise ValueError(problem)
    return found


def _beside(body: bytes) -> RequestFields:
    """The fields of a document that this reader can't read."""
    reader = TopLevel(RequestFields.__struct_fields__)
    reader.feed(body)
    reader.finish()
    fields = {}
    for name, value in reader.found.items():
        # What can't be written is none that anybody goes by: a number of a hundred digits, half of a character.
        with contextlib.suppress(TypeError):
            fields[name] = Raw(orjson.dumps(value))
    return RequestFields(**fields)


def of_options(options: bytes) -> Raw:
    """`include_usage` of an object, as it is written."""
    return _options.decode(options).include_usage


def of_event(payload: bytes) -> EventFields | None:
    try:
        return _event.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return None


def plain_request(body: bytes) -> PlainRequest | None:
    """The quick way; None where something is written differently."""
    try:
        return _plain_request.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None


def plain_usage(document: bytes) -> PlainUsage | None:
    """The quick way; None where it is told in another way, or not at all."""
    try:
        return _plain_answer.decode(document).usage
    except (msgspec.DecodeError, RecursionError):
        return None


def of_answer(document: bytes) -> dict[str, Any]:
    """By name the values of AnswerFields that are there; nothing where it is no object."""
    try:
        return values_of(_answer.decode(document), _ANSWER_NAMES)
    except (msgspec.DecodeError, RecursionError):
        return {}


def of_answers(document: bytes) -> list[dict[str, Any]]:
    """The same of each in a list; nothing where they are too many to be looked at."""
    try:
        found = _answers.decode(document)
    except (msgspec.DecodeError, RecursionError):
        return []
    return [values_of(item, _ANSWER_NAMES) for item in found] if len(found) <= MOST_TOGETHER else []


def values_of(fields: msgspec.Struct, names: Iterable[str]) -> dict[str, Any]:
    return {name: value_of(raw) for name in names if (raw := getattr(fields, name)) is not _NOTHING}


def is_given(raw: Raw) -> bool:
    return raw is not _NOTHING


def value_of(raw: Raw) -> Any:
    """None for what isn't there, is longer than LONGEST_VALUE, or isn't JSON after all."""
    if raw is _NOTHING or memoryview(raw).nbytes > LONGEST_VALUE:
        return None
    try:
        return orjson.loads(memoryview(raw))
    except orjson.JSONDecodeError:
        return None


def replaced(body: bytes, raw: Raw, value: bytes) -> bytes | None:
    """`body` with `value` in the place of its field `raw`; None where that place can't be told."""
    found = bytes(raw)
    # It is a view into the body, which doesn't say where.
    start = int(np.frombuffer(raw, np.uint8).ctypes.data) - int(np.frombuffer(body, np.uint8).ctypes.data)
    end = start + len(found)
    if not 0 <= start <= len(body) - len(found) or body[start:end] != found:
        return None
    return body[:start] + value + body[end:]
