"""When a process that is waited for is given up: by what it does, not by a clock."""

from dashboard.supervision import Progress


class Clock:
    def __init__(self) -> None:
        self.now, self.found = 0.0, (1, 0.0)

    def progress(self) -> Progress:
        return Progress(lambda: self.found, lambda: self.now)


def test_one_that_works_is_waited_for_however_long_it_takes():
    clock = Clock()
    progress = clock.progress()
    for minute in range(60):
        clock.now, clock.found = minute * 50.0, (1, minute * 0.2)
        assert not progress.has_ended()


def test_one_that_does_nothing_is_given_up():
    clock = Clock()
    progress = clock.progress()
    clock.found = (1, 3.0)
    assert not progress.has_ended()
    clock.now = Progress.PATIENCE_S
    assert not progress.has_ended()
    clock.now += 1
    assert progress.has_ended()


def test_one_that_dies_again_and_again_is_given_up():
    clock = Clock()
    progress = clock.progress()
    ended = []
    for pid in range(1, Progress.STARTS + 2):
        clock.found = (pid, 1.0)
        ended.append(progress.has_ended())
    assert ended == [False] * Progress.STARTS + [True]


def test_what_isnt_ours_has_its_time():
    clock = Clock()
    progress = clock.progress()
    clock.found = None
    assert not progress.has_ended()
    clock.now = Progress.PATIENCE_S + 1
    assert progress.has_ended()
