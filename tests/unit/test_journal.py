"""The journal: what a killed gateway had in its books is counted once."""

import numpy as np

from gateway.books.journal import (
    _EARLIER,
    ADMITTED,
    FINISHED,
    RECORDS_PER_FILE,
    SIZE,
    Journal,
    earlier_epochs,
    remove_epoch,
    replay,
)  # fmt: skip
from tests.records import admit, ended, finish


def test_replay_finds_unfolded_and_unfinished(tmp_path):
    journal = Journal(tmp_path, 5)
    files = {sequence: admit(journal, sequence) for sequence in (1, 2, 3)}
    finish(journal, files[1], 1)
    position = journal.position
    finish(journal, files[2], 2)
    journal.folded(position)
    records, unfinished = replay(tmp_path, 5, 0)
    assert [item.sequence for item in ended(records)] == [2]
    assert unfinished["sequence"].tolist() == [3]
    assert unfinished["deployment"].tolist() == [1]


def test_what_is_read_back_is_what_was_written(tmp_path):
    journal = Journal(tmp_path, 5)
    finish(journal, admit(journal, 1), 1)
    (entry,) = ended(journal.records(0))
    assert (entry.outcome, entry.status, entry.source, entry.estimated) == (0, 200, 1, 0)
    assert (entry.deployment, entry.version, bytes(entry.instance)) == (1, 2, b"\x01" * 16)
    assert (entry.organization, entry.user, entry.key, entry.at) == (3, 4, 0, 1000.5)
    assert (entry.end_to_end, entry.inference, entry.queue, entry.first_token) == (0.5, 0.25, 0.125, -1.0)
    assert (entry.input_tokens, entry.output_tokens) == (7, 9)


def test_what_the_release_before_left_behind_is_read(tmp_path):
    """A process of it was killed, and an upgrade followed."""
    rows = np.zeros(8, _EARLIER)
    for row, kind in ((rows[0], ADMITTED), (rows[1], FINISHED), (rows[2], ADMITTED)):
        for name, value in {
            "deployment": 1,
            "version": 2,
            "sequence": 1,
            "input_tokens": 7,
            "output_tokens": 9,
        }.items():
            row[name] = value
        row["kind"] = kind
    rows[2]["sequence"] = 2
    (tmp_path / f"journal2-4-{0:012d}").write_bytes(rows.tobytes())
    assert earlier_epochs(tmp_path, 5) == [4]
    records, unfinished = replay(tmp_path, 4, 0)
    (entry,) = ended(records)
    assert (entry.deployment, entry.input_tokens, entry.output_tokens, entry.cached_tokens) == (1, 7, 9, 0)
    assert unfinished["sequence"].tolist() == [2]
    remove_epoch(tmp_path, 4)
    assert earlier_epochs(tmp_path, 5) == []


def test_a_record_torn_by_a_kill_is_not_read(tmp_path):
    journal = Journal(tmp_path, 5)
    file = admit(journal, 1)
    finish(journal, file, 1)
    journal.close()
    path = next(tmp_path.glob("journal3-5-*"))
    data = bytearray(path.read_bytes())
    kind = 2 * SIZE - 1
    assert data[kind] == FINISHED
    data[kind] = 0  # it is written last
    path.write_bytes(data)
    records, unfinished = replay(tmp_path, 5, 0)
    assert ended(records) == [] and unfinished["sequence"].tolist() == [1]


def test_a_spill_without_its_mark_counts_too(tmp_path):
    journal = Journal(tmp_path, 5)
    finish(journal, admit(journal, 1), 1)
    records, unfinished = replay(tmp_path, 5, journal.position)
    assert len(records) == len(unfinished) == 0


def test_records_are_read_across_files(tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.books.journal.RECORDS_PER_FILE", 4)
    journal = Journal(tmp_path, 5)
    for sequence in range(1, 6):
        finish(journal, admit(journal, sequence), sequence)
    assert [item.sequence for item in ended(journal.records(0))] == [1, 2, 3, 4, 5]
    assert [item.sequence for item in ended(journal.records(5))] == [3, 4, 5]
    assert len(journal.records(journal.position)) == 0


def test_files_go_when_folded_and_finished(tmp_path):
    journal = Journal(tmp_path, 5)
    kept_open = admit(journal, 1)
    for sequence in range(2, RECORDS_PER_FILE // 2 + 3):
        finish(journal, admit(journal, sequence), sequence)
    assert len(list(tmp_path.glob("journal3-5-*"))) == 2
    journal.forget_before(journal.position)
    assert len(list(tmp_path.glob("journal3-5-*"))) == 2
    finish(journal, kept_open, 1)
    journal.forget_before(journal.position)
    assert len(list(tmp_path.glob("journal3-5-*"))) == 1


def test_epochs(tmp_path):
    Journal(tmp_path, 5)
    Journal(tmp_path, 6)
    assert earlier_epochs(tmp_path, 6) == [5]
    remove_epoch(tmp_path, 5)
    assert earlier_epochs(tmp_path, 6) == []
