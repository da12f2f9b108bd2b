"""GPUs of pods, as NVIDIA's DCGM exporter tells them. Pure: its page in, samples by pod out."""

import re
from collections import defaultdict
from collections.abc import Collection

from runtimes.gpu_sample import GpuSample
from runtimes.kubernetes.usage import LONGEST_LINE

MIB = 1 << 20
_FIELDS = {
    "DCGM_FI_DEV_GPU_UTIL": "utilization",
    # The only utilisation that a slice of a GPU (MIG) has; from 0 to 1.
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": "engine_active",
    "DCGM_FI_DEV_FB_USED": "used",
    "DCGM_FI_DEV_FB_FREE": "free",
    "DCGM_FI_DEV_FB_RESERVED": "reserved",
}
_INDEX, _MOST = re.compile(r"[0-9]{1,4}"), 1e12
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def parse(page: str, *, namespaces: Collection[str]) -> dict[str, list[GpuSample]]:
    """The devices of each pod of `namespaces`. One that no pod is named for is left out: whose it is can't be told."""
    found: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    names: dict[tuple[str, str, str], str] = {}
    for line in page.splitlines():
        field = _FIELDS.get(line.partition("{")[0])
        # Labels are searched anew from each letter: a line without end would take for ever.
        if field is None or len(line) > LONGEST_LINE:
            continue
        labels = dict(_LABEL.findall(line.rpartition("}")[0]))
        # Through a ServiceMonitor they arrive under another name.
        pod = labels.get("exported_pod") or labels.get("pod", "")
        place = labels.get("exported_namespace") or labels.get("namespace", "")
        value = _number(line)
        if not pod or place not in namespaces or value is None:
            continue
        key = (pod, labels.get("gpu", "0"), labels.get("GPU_I_ID", ""))
        found[key][field] = value
        names[key] = labels.get("modelName", "")
    samples: dict[str, list[GpuSample]] = defaultdict(list)
    for key, values in sorted(found.items()):
        samples[key[0]].append(_sample(len(samples[key[0]]), key, names[key], values))
    return dict(samples)


def _sample(place: int, key: tuple[str, str, str], name: str, values: dict[str, float]) -> GpuSample:
    utilization = values.get("utilization", values.get("engine_active", 0.0) * 100)
    used = values.get("used", 0.0)
    total = used + values.get("free", 0.0) + values.get("reserved", 0.0)
    # Slices of one GPU share its number: each has a place of its own then.
    index = int(key[1]) if _INDEX.fullmatch(key[1]) and not key[2] else place
    return GpuSample(index, name, utilization, int(used * MIB), int(total * MIB))


def _number(line: str) -> float | None:
    try:
        value = float(line.rpartition("}")[2].split()[0])
    except (ValueError, IndexError):
        return None
    return value if 0 <= value < _MOST else None
