"""NVIDIA GPUs of this machine through NVML; every absence comes with its reason."""

import pynvml

from runtimes.gpu_sample import GpuSample


def read_gpus() -> tuple[list[GpuSample], str]:
    """All devices, and why there are none."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], f"no NVML on this machine ({error})"
    try:
        samples = [_sample(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        return [], f"NVML does not answer ({error})"
    finally:
        pynvml.nvmlShutdown()
    return samples, "" if samples else "NVML sees no device"


def _sample(index: int) -> GpuSample:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    return GpuSample(
        index=index,
        name=name.decode() if isinstance(name, bytes) else name,
        utilization=float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        memory_used=int(memory.used),
        memory_total=int(memory.total),
    )
