"""What a chart's own numbers suggest, in words, with the reckoning. Pure."""

import math

# Above these, things go slower or break; below those, for all of the shown time, much is paid for nothing.
HIGH_CPU, LOW_CPU = 0.85, 0.2
HIGH_MEMORY, LOW_MEMORY = 0.9, 0.3
HIGH_GPU, LOW_GPU = 0.9, 0.2
HIGH_VRAM, LOW_VRAM = 0.95, 0.4
HIGH_KV = 0.9
HEADROOM = 1.5
# Less says little about how much is needed.
ENOUGH_S = 900
GIB = 1 << 30


def cpu(average: float, peak: float, cores: float, shown_s: int) -> str:
    """Of use in cores: the average over the shown time, and the highest point of any instance."""
    if not cores:
        return ""
    if average >= HIGH_CPU * cores:
        return f"High: {_percent(average / cores)} of {cores:g} cores on average. More replicas share the load; an instance with more cores answers faster."
    if peak >= HIGH_CPU * cores:
        return f"Peaks reach {_percent(peak / cores)} of {cores:g} cores. If response times rise at the same moments, add replicas or cores."
    needed = max(0.1, math.ceil(peak * HEADROOM * 10 - 1e-9) / 10)
    if shown_s >= ENOUGH_S and peak < LOW_CPU * cores and needed < cores:
        return f"Over-provisioned: the peak is {_percent(peak / cores)} of {cores:g} cores. {needed:g} would hold {_times(needed / peak)}; {cores - needed:.3g} stand idle in each instance."
    return ""


def memory(peak: float, total: float, shown_s: int) -> str:
    """Of bytes: the highest point of any instance, and what each may use."""
    if not total:
        return ""
    if peak >= HIGH_MEMORY * total:
        return f"High: {_percent(peak / total)} of {_gib(total)} used. Beyond it the instance is killed. Give it {_gib(peak * HEADROOM)}, or lower what it holds at once."
    needed = max(64 << 20, peak * HEADROOM)
    if shown_s >= ENOUGH_S and peak < LOW_MEMORY * total:
        return f"Over-provisioned: the peak is {_percent(peak / total)} of {_gib(total)}. {_gib(needed)} would hold {_times(needed / peak)}; {_gib(total - needed)} stand idle in each instance."
    return ""


def gpu(average: float, shown_s: int) -> str:
    """Of shares from 0 to 1, averaged over devices and the shown time."""
    if average >= HIGH_GPU:
        return f"High: kernels run {_percent(average)} of the time. If inference times rise with it, add replicas or take a faster GPU."
    if shown_s >= ENOUGH_S and average < LOW_GPU:
        return f"Over-provisioned: the GPUs do nothing {_percent(1 - average)} of the time. A smaller GPU, or fewer replicas, would do."
    return ""


def vram(peak: float, total: float, shown_s: int, *, reserves: bool) -> str:
    """Of bytes on the fullest device. `reserves`: the engine takes nearly all at its start, so being full says nothing."""
    if not total or reserves:
        return (
            "This engine reserves most of the memory at its start: how full it is says nothing about load. Look at the KV cache."
            if reserves and total
            else ""
        )
    if peak >= HIGH_VRAM * total:
        return f"High: {_percent(peak / total)} of {_gib(total)}. Requests can fail for want of memory: take a GPU with more, or a shorter context."
    if shown_s >= ENOUGH_S and peak < LOW_VRAM * total:
        return f"Over-provisioned: at most {_percent(peak / total)} of {_gib(total)} is used. A GPU with {_gib(peak * HEADROOM)} would do."
    return ""


def waiting(average: float, running: float) -> str:
    """Of requests inside the engine, averaged over the shown time."""
    if average >= 1 and average > 0.2 * running:
        return f"{average:.3g} requests wait on average while {running:.3g} run: more replicas would take them at once."
    return ""


def kv_cache(average: float) -> str:
    if average >= HIGH_KV:
        return f"The cache is {_percent(average)} full on average: the engine puts requests off. A shorter context, more memory or more replicas make room."
    return ""


def errors(failed: int, total: int) -> str:
    if total and failed / total >= 0.01:
        return (
            f"{_percent(failed / total)} of the requests ended with 5xx. Click a red bar for the logs of that moment."
        )
    return ""


def queue(p95: float, inference_p95: float) -> str:
    if p95 > 0.1 and p95 > 0.2 * inference_p95:
        return f"One request in twenty waits {p95:.3g} s before an instance takes it: more replicas shorten that."
    return ""


# What waits should be worked off within this time.
CLEAR_S = 600


def async_queue(p95: float, ended: int, waiting: tuple[float, float], replicas: float, shown_s: int) -> str:
    """Of the asynchronous queue: the time that one in twenty waited (s), how many ended, how many waited at the beginning
    and at the end of the shown time, and the replicas that there were on average."""
    first, last = waiting
    if last < 1 or shown_s <= 0:
        return ""
    if not ended or not replicas:
        return f"{last:,.0f} wait and nothing ended in this time: start a version, or see on the Overview why none is ready."
    pace = ended / shown_s
    coming = max(0.0, pace + (last - first) / shown_s)
    needed = coming + last / CLEAR_S
    # A steady wait of half a minute is what a queue is for, and one that empties by itself needs nothing.
    if (p95 < 1 and last / pace < CLEAR_S) or needed <= 1.05 * pace:
        return ""
    more = math.ceil(replicas * needed / pace - 1e-9)
    return (
        f"{coming * 60:,.3g} come a minute, {pace * 60:,.3g} are worked off, {last:,.0f} wait. {more} replicas instead of {replicas:.3g} would "
        f"keep up and clear the queue within ten minutes; or {needed / pace:.2g} times as many at once on each instance, if it has room."
    )


def _times(share: float) -> str:
    return "it one and a half times" if share < 1.75 else f"it {share:.0f} times"


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _gib(size: float) -> str:
    return f"{size / GIB:.3g} GiB" if size >= GIB else f"{size / (1 << 20):.0f} MiB"
