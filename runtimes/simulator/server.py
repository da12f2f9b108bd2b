"""The simulator's HTTP side: an ASGI application with the paths and answers of an OpenAI-compatible engine."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from runtimes.simulator.faults import Faults
from runtimes.simulator.metrics import EngineMetrics
from runtimes.simulator.text import answer_tokens, count_tokens, embedding, prompt_text

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON = [(b"content-type", b"application/json"), (b"x-simulated", b"true")]
EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-simulated", b"true"),
]
DEFAULT_MAX_TOKENS = 48


@dataclass(frozen=True)
class Behaviour:
    """Times in seconds, `failure_rate` from 0 to 1, `context_length` in tokens."""

    model: str
    context_length: int
    time_to_first_token_s: float
    inter_token_s: float
    concurrency: int
    load_time_s: float
    failure_rate: float


class RefusedError(Exception):
    """The request can't be answered; the client gets `status` and the message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class SimulatorApp:
    def __init__(self, behaviour: Behaviour, faults: Faults) -> None:
        self._behaviour = behaviour
        self._faults = faults
        self._slots = asyncio.Semaphore(behaviour.concurrency)
        self._loaded = False
        self.metrics = EngineMetrics(behaviour.model)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            try:
                await self._route(scope, receive, send)
            except RefusedError as error:
                await _answer(
                    send,
                    error.status,
                    {"error": {"message": str(error), "type": "invalid_request_error", "code": error.status}},
                )

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        log(f"INFO simulator: this is a simulator, not a model; serving “{self._behaviour.model}”")
        self._faults.start()
        loading = asyncio.create_task(self._load())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        loading.cancel()
        log("INFO simulator: shutting down")
        await send({"type": "lifespan.shutdown.complete"})

    async def _load(self) -> None:
        log(f"INFO simulator: loading takes {self._behaviour.load_time_s:g} s")
        await asyncio.sleep(self._behaviour.load_time_s)
        self._loaded = True
        log("INFO simulator: model loaded, ready to serve")

    async def _route(self, scope: Message, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if path == "/health":
            await _answer(send, 200 if self._loaded else 503, {"status": "ok" if self._loaded else "loading"})
        elif path == "/metrics":
            await _answer_raw(send, 200, [(b"content-type", b"text/plain; version=0.0.4")], self.metrics.render())
        elif not self._loaded:
            raise RefusedError(503, "The model is still loading.")
        elif path == "/v1/models":
            entry = {"id": self._behaviour.model, "object": "model", "created": 0, "owned_by": "slipway-simulator"}
            await _answer(send, 200, {"object": "list", "data": [entry]})
        elif path == "/simulate/crash":
            self._faults.crash()
        elif path == "/simulate/echo":
            await self._echo(scope, receive, send)
        elif path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings"):
            if method != "POST":
                raise RefusedError(405, f"{path} takes POST.")
            await self._generate(scope, path, await _json_body(receive), receive, send)
        else:
            raise RefusedError(404, f"The simulator has no {path}. Try /v1/chat/completions.")

    async def _echo(self, scope: Message, receive: Receive, send: Send) -> None:
        """Return the request as it arrived, to see what the gateway passes on."""
        body = await _body(receive)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode("latin-1")
        await _answer(
            send,
            200,
            {
                "method": scope["method"],
                "path": scope["path"],
                "query": query,
                "headers": headers,
                "body_bytes": len(body),
            },
        )

    async def _generate(self, scope: Message, path: str, body: dict[str, Any], receive: Receive, send: Send) -> None:
        request_id = _header(scope, b"x-request-id") or uuid.uuid4().hex[:12]
        prompt_tokens = count_tokens(prompt_text(body))
        if prompt_tokens > self._behaviour.context_length:
            raise RefusedError(
                400, f"The prompt has {prompt_tokens} tokens, the context only {self._behaviour.context_length}."
            )
        arrived = time.monotonic()
        with self.metrics.waiting():
            await self._slots.acquire()
        try:
            with self.metrics.running():
                if random.random() < self._behaviour.failure_rate:  # noqa: S311
                    log(
                        f"ERROR request {request_id}: failed on purpose (failure rate {self._behaviour.failure_rate:g})"
                    )
                    raise RefusedError(500, "The simulator failed on purpose; its failure rate is above 0.")
                if path == "/v1/embeddings":
                    await self._embed(body, prompt_tokens, send)
                    produced = 0
                else:
                    produced = await self._complete(path, body, prompt_tokens, arrived, receive, send)
        finally:
            self._slots.release()
        elapsed = time.monotonic() - arrived
        self.metrics.finished(prompt_tokens, produced, elapsed)
        log(f"INFO request {request_id}: {path} {prompt_tokens} tokens in, {produced} out, {elapsed:.3f} s")

    async def _embed(self, body: dict[str, Any], prompt_tokens: int, send: Send) -> None:
        inputs = body.get("input", "")
        texts = inputs if isinstance(inputs, list) else [inputs]
        await asyncio.sleep(self._behaviour.time_to_first_token_s)
        data = [
            {"object": "embedding", "index": index, "embedding": embedding(str(text))}
            for index, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
        await _answer(send, 200, {"object": "list", "model": self._behaviour.model, "data": data, "usage": usage})

    async def _complete(
        self, path: str, body: dict[str, Any], prompt_tokens: int, arrived: float, receive: Receive, send: Send
    ) -> int:
        chat = path == "/v1/chat/completions"
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_MAX_TOKENS
        if not isinstance(limit, int) or limit < 1:
            raise RefusedError(400, "max_tokens must be a whole number above 0.")
        tokens = answer_tokens(min(limit, self._behaviour.context_length))
        envelope = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self._behaviour.model,
        }
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(tokens),
            "total_tokens": prompt_tokens + len(tokens),
        }
        self._faults.burn(self._behaviour.time_to_first_token_s + len(tokens) * self._behaviour.inter_token_s)
        if body.get("stream"):
            return await self._stream(chat, body, tokens, envelope, usage, arrived, receive, send)
        await asyncio.sleep(self._behaviour.time_to_first_token_s)
        self.metrics.first_token(time.monotonic() - arrived)
        await asyncio.sleep(self._behaviour.inter_token_s * (len(tokens) - 1))
        text = "".join(tokens)
        content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, "finish_reason": "length", **content}
        kind = "chat.completion" if chat else "text_completion"
        await _answer(send, 200, {**envelope, "object": kind, "choices": [choice], "usage": usage})
        return len(tokens)

    async def _stream(
        self,
        chat: bool,
        body: dict[str, Any],
        tokens: list[str],
        envelope: Message,
        usage: Message,
        arrived: float,
        receive: Receive,
        send: Send,
    ) -> int:
        kind = "chat.completion.chunk" if chat else "text_completion"
        gone = asyncio.create_task(_disconnected(receive))
        await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM})
        produced = 0
        for index, token in enumerate(tokens):
            pause = self._behaviour.inter_token_s if index else self._behaviour.time_to_first_token_s
            done, _ = await asyncio.wait({gone}, timeout=pause)
            if done:
                log("INFO simulator: the client left, generation stopped")
                return produced
            if index == 0:
                self.metrics.first_token(time.monotonic() - arrived)
            content = (
                {"delta": {"role": "assistant", "content": token} if index == 0 else {"content": token}}
                if chat
                else {"text": token}
            )
            finish = "length" if index == len(tokens) - 1 else None
            await _event(
                send, {**envelope, "object": kind, "choices": [{"index": 0, "finish_reason": finish, **content}]}
            )
            produced += 1
        options = body.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage"):
            await _event(send, {**envelope, "object": kind, "choices": [], "usage": usage})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        gone.cancel()
        return produced


def log(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _header(scope: Message, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return b"".join(parts)


async def _json_body(receive: Receive) -> dict[str, Any]:
    try:
        value = json.loads(await _body(receive))
    except ValueError as error:
        raise RefusedError(400, f"The body is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise RefusedError(400, "The body must be a JSON object.")
    return value


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _event(send: Send, value: Message) -> None:
    await send(
        {"type": "http.response.body", "body": b"data: " + json.dumps(value).encode() + b"\n\n", "more_body": True}
    )


async def _answer(send: Send, status: int, value: Message) -> None:
    await _answer_raw(send, status, JSON, json.dumps(value).encode())


async def _answer_raw(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})
