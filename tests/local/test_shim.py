"""The shim's own parts that the driver's behaviour shows by luck only."""

import subprocess
import sys

# Each round another moment: somewhere among them is every step of `wait`.
SIGNALLED_WHILE_IT_WAITS = """
import signal
import time
from runtimes.local.shim import StopSignal
signal.signal(signal.SIGALRM, lambda *_: stop.set())
for round in range(1500):
    stop = StopSignal()
    stop.wake_on_signals()
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, (50 + round * 7 % 300) / 1e6)
    while not stop.wait((0.0001, 60.0)[round % 2]):
        pass
    assert time.monotonic() - began < 60, "the signal did not wake it"
    assert stop.is_set() and stop.wait(0)
"""


def test_a_signal_at_any_moment_of_waiting_neither_hangs_nor_is_lost():
    subprocess.run([sys.executable, "-c", SIGNALLED_WHILE_IT_WAITS], check=True, timeout=170)
