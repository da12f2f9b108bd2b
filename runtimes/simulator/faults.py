"""What can go wrong with an engine, on demand: a crash, a leak, a busy CPU."""

import asyncio
import os
import time

CRASH_EXIT_CODE = 3


class Faults:
    """Rates in MB a minute and cores; `crash_after_s` of 0 never crashes."""

    def __init__(self, *, crash_after_s: float, memory_growth_mb_per_minute: float, cpu_burn_cores: float) -> None:
        self._crash_after_s = crash_after_s
        self._growth = memory_growth_mb_per_minute
        self._cpu_burn_cores = cpu_burn_cores
        self._leaked: list[bytearray] = []
        self._running: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        if self._crash_after_s:
            asyncio.get_running_loop().call_later(self._crash_after_s, self.crash)
        if self._growth:
            self._keep(self._leak())

    def crash(self) -> None:
        """End at once, as a failed assertion in an engine's native code does."""
        print("FATAL simulator: crash requested, exiting with code 3", flush=True)  # noqa: T201
        os._exit(CRASH_EXIT_CODE)

    def burn(self, seconds: float) -> None:
        """Keep a core busy beside the answer that takes `seconds`."""
        if self._cpu_burn_cores:
            self._keep(self._burn(seconds))

    async def _leak(self) -> None:
        while True:
            await asyncio.sleep(1)
            # Written to, so that it is resident memory and not only address space.
            self._leaked.append(bytearray(os.urandom(1) * max(1, int(self._growth * 1e6 / 60))))

    async def _burn(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            busy_until = time.monotonic() + 0.01 * self._cpu_burn_cores
            while time.monotonic() < busy_until:
                sum(range(200))
            await asyncio.sleep(max(0.0, 0.01 * (1 - self._cpu_burn_cores)))

    def _keep(self, coroutine: "asyncio.coroutines.Coroutine[None, None, None]") -> None:  # type: ignore[name-defined]
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
