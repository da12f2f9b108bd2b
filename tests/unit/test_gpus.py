"""GPUs and sums of pods: what DCGM's exporter and the metrics API tell."""

import pytest

from runtimes.gpu_sample import GpuSample
from runtimes.kubernetes.gpus import parse
from runtimes.kubernetes.usage import PodTotal, parse_totals

MIB = 1 << 20
PLACE = 'Hostname="n1",container="engine",namespace="models",pod="chat-v1-a"'
PAGE = f"""# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H200",{PLACE}}} 87
DCGM_FI_DEV_GPU_UTIL{{gpu="3",UUID="GPU-2",device="nvidia3",modelName="NVIDIA H200",{PLACE}}} 5
DCGM_FI_DEV_FB_USED{{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H200",{PLACE}}} 100000
DCGM_FI_DEV_FB_FREE{{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H200",{PLACE}}} 42000
DCGM_FI_DEV_FB_RESERVED{{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H200",{PLACE}}} 771
DCGM_FI_DEV_GPU_UTIL{{gpu="1",UUID="GPU-9",device="nvidia1",modelName="NVIDIA H200",Hostname="n1"}} 99
DCGM_FI_DEV_GPU_UTIL{{gpu="2",namespace="others",pod="chat-v1-a"}} 99
DCGM_FI_DEV_GPU_TEMP{{gpu="0",{PLACE}}} 60
"""


def test_each_pod_has_its_devices_and_no_other_ones():
    assert parse(PAGE, namespaces={"models"}) == {
        "chat-v1-a": [
            GpuSample(0, "NVIDIA H200", 87, 100_000 * MIB, 142_771 * MIB),
            GpuSample(3, "NVIDIA H200", 5, 0, 0),
        ]
    }


def test_labels_that_came_through_a_service_monitor_and_slices_of_a_gpu():
    line = 'DCGM_FI_PROF_GR_ENGINE_ACTIVE{{gpu="0",GPU_I_ID="{0}",exported_namespace="models",exported_pod="p",namespace="gpu-operator",pod="dcgm"}} {1}'
    page = "\n".join([line.format(1, 0.5), line.format(2, 0.25)])
    assert [(item.index, item.utilization) for item in parse(page, namespaces={"models"})["p"]] == [(0, 50), (1, 25)]


@pytest.mark.parametrize("page", ["", 'DCGM_FI_DEV_GPU_UTIL{gpu="0",namespace="models",pod="p"} \n', "<html>"])
def test_odd_pages_have_no_gpus(page):
    assert parse(page, namespaces={"models"}) == {}


def test_the_metrics_apis_sums():
    item = {
        "metadata": {"name": "p"}, "timestamp": "2026-11-20T12:00:00Z", "window": "15s",
        "containers": [{"name": "sidecar", "usage": {}}, {"name": "engine", "usage": {"cpu": "250000000n", "memory": "512Mi"}}],
    }  # fmt: skip
    assert parse_totals([item, {"metadata": {"name": "q"}, "timestamp": "x"}, {}]) == [
        PodTotal("p", 1795176000.0, 0.25, 512 * MIB)
    ]
