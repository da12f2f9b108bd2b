"""Nothing of one request may reach another: packets that hold several, surplus answers, trailers, full buffers."""

import asyncio
import json
import time

import pytest

from common import request_outcomes
from gateway.books.journal import Journal, replay
from gateway.books.recorder import Recorder
from gateway.http.bounds import Timeouts
from tests.gateway.conftest import json_answer
from tests.records import admit, ended, finish, records

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
    assert (await gateway.finished(1))[0].outcome == request_outcomes.CANCELLED


async def test_an_http_1_0_client_is_told_that_the_connection_stays(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")))
    reader, writer = await gateway.connect()
    writer.write(b"GET /main/chat/x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"connection: keep-alive" in head
    writer.close()


class Marks:
    """A journal that only notes what it is told."""

    def __init__(self) -> None:
        self.folded_to: list[int] = []

    def folded(self, position: int) -> None:
        self.folded_to.append(position)

    def forget_before(self, position: int) -> None: ...


def work_off(recorder: Recorder) -> None:
    """What the recorder's thread would do with what it was handed."""
    while not recorder._work.empty():
        recorder._work.get()()


async def test_a_batch_that_can_not_be_written_is_kept_and_tried_again(tmp_path, monkeypatch):
    marks = Marks()
    recorder = Recorder(tmp_path, "gw", 1, marks)

    def full(path, data):
        raise OSError(28, "No space left on device")

    recorder.take(records({"sequence": 1}))
    with monkeypatch.context() as disk:
        disk.setattr("gateway.books.recorder.atomic_file.write_bytes", full)
        recorder.close_batch(2, {})
        work_off(recorder)
    assert not marks.folded_to
    recorder.take(records({"sequence": 2}))
    recorder.close_batch(4, {})
    work_off(recorder)
    assert marks.folded_to == [4]
    (path,) = tmp_path.glob("spill-*")
    (books,) = json.loads(path.read_text())["books"]
    assert (books["admitted"], books["completed"], books["in_flight"]) == (2, 2, 0)


async def test_two_batches_of_one_bucket_are_two_rows(tmp_path):
    recorder = Recorder(tmp_path, "gw", 1, Marks())
    for sequence in (1, 2):
        recorder.take(records({"sequence": sequence}))
        recorder.close_batch(sequence, {})
    work_off(recorder)
    rows = [row for path in sorted(tmp_path.glob("spill-*")) for row in json.loads(path.read_text())["series"]]
    keys = {(row["version_id"], row["instance_uid"], row["bucket"], row["source"]) for row in rows}
    assert len(keys) == len(rows) == 4


async def test_a_batch_waits_for_its_mark_in_the_journal(tmp_path, monkeypatch):
    stored = []
    monkeypatch.setattr(
        "gateway.books.recorder.ingest.store", lambda gateway, batch_id, *rest: stored.append((gateway, batch_id))
    )

    class Gone(Marks):
        def folded(self, position):
            raise TimeoutError("the loop has ended")

    recorder = Recorder(tmp_path, "gw", 1, Gone())
    recorder.take(records({}))
    recorder.close_batch(1, {})
    with pytest.raises(TimeoutError):
        work_off(recorder)
    recorder._ingest_files()
    assert not stored and recorder.last_spilled_position(1) == 1
    Recorder(tmp_path, "gw", 2, Marks())._ingest_files()
    assert stored == [("gw", "gw.1.00000001")] and not list(tmp_path.glob("spill-*"))


async def test_replay_knows_positions_after_the_first_file_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.books.journal.RECORDS_PER_FILE", 4)
    journal = Journal(tmp_path, 5)
    for sequence in (1, 2):
        finish(journal, admit(journal, sequence), sequence)
    journal.folded(journal.position)
    finish(journal, admit(journal, 3), 3)
    journal.forget_before(4)
    assert len(list(tmp_path.glob("journal3-5-*"))) == 1
    rows, unfinished = replay(tmp_path, 5, 0)
    assert [item.sequence for item in ended(rows)] == [3] and not len(unfinished)


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
