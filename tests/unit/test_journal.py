"""The journal: what a killed gateway had in its books is counted once."""

from gateway.journal import RECORDS_PER_FILE, Entry, Journal, earlier_epochs, remove_epoch, replay


def entry(sequence: int, **changes) -> Entry:
    values = {
        "sequence": sequence, "deployment_id": 1, "version_id": 2, "instance": b"\x01" * 16, "organization_id": 3, "user_id": 4, "source": 1,
        "outcome": 0, "status": 200, "at": 1000.5, "end_to_end": 0.5, "inference": 0.25, "queue": 0.125, "first_token": -1.0,
        "input_tokens": 7, "output_tokens": 9, "estimated": False,
    }  # fmt: skip
    return Entry(**values | changes)


def admit(journal: Journal, sequence: int):
    return journal.admitted(sequence, 1, 2, 3, 4, 1, 999.0)


def test_replay_finds_unfolded_and_unfinished(tmp_path):
    journal = Journal(tmp_path, 5)
    files = {sequence: admit(journal, sequence) for sequence in (1, 2, 3)}
    journal.finished(files[1], entry(1))
    position = journal.position
    journal.finished(files[2], entry(2))
    journal.folded(position)
    finished, unfinished = replay(tmp_path, 5, 0)
    assert finished == [entry(2)]
    assert [item.sequence for item in unfinished] == [3]
    assert unfinished[0].deployment_id == 1


def test_a_spill_without_its_mark_counts_too(tmp_path):
    journal = Journal(tmp_path, 5)
    journal.finished(admit(journal, 1), entry(1))
    assert replay(tmp_path, 5, journal.position) == ([], [])


def test_files_go_when_folded_and_finished(tmp_path):
    journal = Journal(tmp_path, 5)
    kept_open = admit(journal, 1)
    for sequence in range(2, RECORDS_PER_FILE // 2 + 3):
        journal.finished(admit(journal, sequence), entry(sequence))
    assert len(list(tmp_path.glob("journal-5-*"))) == 2
    journal.forget_before(journal.position)
    assert len(list(tmp_path.glob("journal-5-*"))) == 2
    journal.finished(kept_open, entry(1))
    journal.forget_before(journal.position)
    assert len(list(tmp_path.glob("journal-5-*"))) == 1


def test_epochs(tmp_path):
    Journal(tmp_path, 5)
    Journal(tmp_path, 6)
    assert earlier_epochs(tmp_path, 6) == [5]
    remove_epoch(tmp_path, 5)
    assert earlier_epochs(tmp_path, 6) == []
