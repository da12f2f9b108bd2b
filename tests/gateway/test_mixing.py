"""Nothing of one request may reach another: packets that hold several, surplus answers, trailers, full buffers."""

import asyncio
import json
import time

import pytest

from gateway import meter
from gateway.core import Timeouts
from gateway.journal import Journal, replay
from gateway.recorder import Recorder
from tests.gateway.conftest import json_answer
from tests.unit.test_journal import admit, entry

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(
    "first",
    [
        b"GET /main/none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ],
)
async def test_a_request_behind_a_refused_one_is_not_executed(gateway, upstream, first):
    server = await upstream(json_answer(b"{}"))
    await gateway.start(server)
    answer = await gateway.exchange(first + b"GET /main/chat/smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.count(b"HTTP/1.1 4") == 1
    assert not server.requests


async def test_a_surplus_answer_reaches_nobody(gateway, upstream):
    async def two(request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL")
        await writer.drain()

    server = await upstream(two)
    await gateway.start(server)
    reader, writer = await gateway.connect()
    for _ in range(2):
        writer.write(b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200") and await reader.readexactly(2) == b"ok"
    writer.close()
    assert server.connections == 2, "the connection with a surplus is not used again"


async def test_trailers_are_dropped_and_bounded(gateway, upstream):
    server = await upstream(json_answer(b"{}"))
    await gateway.start(server)
    start = b"POST /main/chat/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"
    assert (await gateway.exchange(start + b"X-Evil: 1\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert "x-evil" not in server.requests[0].headers and server.requests[0].body == b"ok"
    many = b"".join(b"X-%d: %b\r\n" % (number, b"a" * 1000) for number in range(100))
    answer = await gateway.exchange(start + many + b"\r\n")
    assert b" 431 " in answer or answer == b""


async def test_a_bad_chunk_behind_a_begun_answer_cuts_it(gateway, upstream):
    async def early(request, writer):
        await asyncio.sleep(0)

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await writer.drain()
        await reader.read()

    server = await upstream(early)
    server.serve = serve
    raw = await asyncio.start_server(serve, "127.0.0.1", 0)
    server.port = raw.sockets[0].getsockname()[1]
    await gateway.start(server)
    reader, writer = await gateway.connect()
    writer.write(b"POST /main/chat/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
    await reader.readuntil(b"hello\r\n")
    writer.write(b"not a chunk\r\n")
    with pytest.raises(ConnectionResetError):
        rest = await reader.read()
        assert b"HTTP/1.1" not in rest
        raise ConnectionResetError
    raw.close()
    assert (await gateway.finished(1))[0].outcome == meter.CANCELLED


async def test_an_http_1_0_client_is_told_that_the_connection_stays(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")))
    reader, writer = await gateway.connect()
    writer.write(b"GET /main/chat/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"connection: keep-alive" in head
    writer.close()


async def test_a_bucket_that_can_not_be_written_is_kept_and_tried_again(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")))
    gateway.core.meter.add(entry(1))
    marked = []

    def full(entries, position):
        raise OSError(28, "No space left on device")

    await gateway.core.close_bucket(full, marked.append)
    assert not marked
    written = []
    await gateway.core.close_bucket(lambda entries, position: written.extend(entries), marked.append)
    assert written == [entry(1)] and marked == [gateway.core.journal.position - 1]


async def test_two_batches_of_one_bucket_are_two_rows(tmp_path):
    recorder = Recorder(tmp_path, "gw", 1, lambda position: None)
    recorder.spill([entry(1)], 1)
    recorder.spill([entry(2)], 2)
    rows = [row for path in sorted(tmp_path.glob("spill-*")) for row in json.loads(path.read_text())["series"]]
    keys = {(row["version_id"], row["instance_uid"], row["bucket"], row["source"]) for row in rows}
    assert len(keys) == len(rows) == 4


async def test_a_batch_waits_for_its_mark_in_the_journal(tmp_path, monkeypatch):
    stored = []
    monkeypatch.setattr("gateway.recorder.ingest.store", lambda batch_id, series, usage: stored.append(batch_id))
    recorder = Recorder(tmp_path, "gw", 1, lambda position: None)
    recorder.spill([entry(1)], 1)
    recorder._ingest_files()
    assert not stored
    recorder.marked(1)
    recorder._ingest_files()
    assert stored == ["gw.1.00000001"] and not list(tmp_path.glob("spill-*"))


async def test_replay_knows_positions_after_the_first_file_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.journal.RECORDS_PER_FILE", 4)
    journal = Journal(tmp_path, 5)
    for sequence in (1, 2):
        journal.finished(admit(journal, sequence), entry(sequence))
    journal.folded(journal.position)
    journal.finished(admit(journal, 3), entry(3))
    journal.forget_before(4)
    assert len(list(tmp_path.glob("journal-5-*"))) == 1
    finished, unfinished = replay(tmp_path, 5, 0)
    assert [item.sequence for item in finished] == [3] and not unfinished


async def test_a_client_that_still_reads_is_not_cut_when_its_connection_idles(gateway, upstream):
    body = bytes(24 << 20)
    await gateway.start(await upstream(json_answer(body)), timeouts=Timeouts(keep_alive_s=1.0))
    reader, writer = await gateway.connect()
    writer.write(b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    total, started = 0, time.monotonic()
    while total < len(body):
        data = await reader.read(1 << 20)
        assert data, f"cut after {total} bytes"
        total += len(data)
        await asyncio.sleep(0.1 if time.monotonic() - started < 3 else 0)
    writer.close()
