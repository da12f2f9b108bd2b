"""A source of server-sent events: `/…?events=N&every_ms=M` answers N completion chunks, M milliseconds apart."""

import asyncio
import re
import sys

import uvloop

_EVENT = b'data: {"id":"c","object":"chat.completion.chunk","model":"chat","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Source(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._task: asyncio.Task[None] | None = None
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if not found or (length and len(rest) < int(length[1])):
            return
        self._data = b""
        asked = {name: int(value) for name, value in re.findall(rb"(events|every_ms)=(\d+)", head)}
        self._task = asyncio.ensure_future(self._answer(asked.get(b"events", 10), asked.get(b"every_ms", 10) / 1000))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task:
            self._task.cancel()

    async def _answer(self, events: int, every_s: float) -> None:
        self.transport.write(_HEAD)
        for _ in range(events):
            await asyncio.sleep(every_s)
            self.transport.write(CHUNK)
        self.transport.write(b"0\r\n\r\n")


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Source, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
