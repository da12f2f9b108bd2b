"""What each engine becomes in a cluster, whole: a change of a manifest is seen in review.

`python -m tests.unit.test_golden_manifests` writes the files anew.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtimes.engines.registry import engine
from runtimes.kubernetes import manifest
from runtimes.kubernetes.abilities import read
from runtimes.kubernetes.manifest import Workload
from runtimes.specification import PodAffinity, Specification, Toleration

FOLDER = Path(__file__).with_name("golden")
GIB = 1 << 30
TOKEN = "planted-token"
# Every field that the form has for the engine, each with a value of its own.
_PLACED: dict[str, Any] = {
    "environment": {"LOG_LEVEL": "info"}, "labels": {"team": "search"}, "annotations": {"example.com/owner": "ann"},
    "tolerations": (Toleration("gpu", "Equal", "true", "NoSchedule"),), "node_selector": {"accelerator": "h200"},
    "pod_affinity": (PodAffinity("app", "batch"),), "cache_claim": "acme.models",
}  # fmt: skip
_LLM: dict[str, Any] = {"context_length": 4096, "cpu": 6.0, "memory": 48 * GIB, "gpu": 2}
CASES = {
    "vllm-0.11": Specification(
        "vllm", "acme/chat", "org/model", "vllm/vllm-openai:v0.11.0", {"max_num_seqs": 64, "gpu_memory_utilization": 0.8, "start_deadline_s": 900},
        prompt_caching=False, extra_arguments=("--seed", "7"), **_LLM, **_PLACED,
    ),
    "vllm-0.18": Specification(
        "vllm", "acme/chat", "org/model", "vllm/vllm-openai:v0.18.0", {"max_num_seqs": 64, "gpu_memory_utilization": 0.8, "start_deadline_s": 900},
        prompt_caching=False, extra_arguments=("--seed", "7"), **_LLM, **_PLACED,
    ),
    "vllm-0.18-from-store": Specification(
        "vllm", "acme/chat", "s3://weights/llama-3?endpoint=https://minio.example:9000&region=eu", "vllm/vllm-openai:v0.18.0", {"max_num_seqs": 64, "gpu_memory_utilization": 0.8, "start_deadline_s": 900},
        prompt_caching=True, extra_arguments=("--seed", "7"), **_LLM, **_PLACED,
    ),
    "llama_cpp-from-claim": Specification(
        "llama_cpp", "acme/small", "pvc://acme.weights/gguf/tiny.gguf", "ghcr.io/ggml-org/llama.cpp:server", {"parallel": 4, "threads": 3, "gpu_layers": 0},
        prompt_caching=True, extra_arguments=("--jinja",), **(_LLM | {"gpu": 0}), **(_PLACED | {"cache_claim": ""}),
    ),
    "sglang-0.5": Specification(
        "sglang", "acme/chat", "org/model", "lmsysorg/sglang:v0.5.9", {"max_running_requests": 64, "mem_fraction_static": 0.8, "start_deadline_s": 900},
        prompt_caching=False, extra_arguments=("--schedule-policy", "lpm"), **_LLM, **_PLACED,
    ),
    "nim-1": Specification(
        "nim", "acme/chat", "nvcr.io/nim/meta/llama-3.1-8b-instruct:1.8.4", "nvcr.io/nim/meta/llama-3.1-8b-instruct:1.8.4",
        {"licence": True, "model_profile": "vllm-fp8-tp2", "start_deadline_s": 900}, prompt_caching=True, **_LLM, **_PLACED,
    ),
    "nim-2": Specification(
        "nim", "acme/chat", "nvcr.io/nim/meta/llama-3.1-8b-instruct:2.0", "nvcr.io/nim/meta/llama-3.1-8b-instruct:2.0",
        {"licence": True}, prompt_caching=False, extra_arguments=("--max-num-seqs", "64"), **_LLM, **_PLACED,
    ),
    "tei-1.9": Specification(
        "tei", "acme/embed", "BAAI/bge-m3", "ghcr.io/huggingface/text-embeddings-inference:cpu-1.9",
        {"max_concurrent_requests": 64, "max_batch_tokens": 4096, "max_client_batch_size": 16, "auto_truncate": False, "start_deadline_s": 300},
        cpu=4.0, memory=4 * GIB, extra_arguments=("--pooling", "cls"), **_PLACED,
    ),
    "llama_cpp": Specification(
        "llama_cpp", "acme/small", "ggml-org/SmolLM3-3B-GGUF:Q4_K_M", "ghcr.io/ggml-org/llama.cpp:server-cuda", {"parallel": 4, "threads": 3, "gpu_layers": 20},
        prompt_caching=False, extra_arguments=("--jinja",), **(_LLM | {"gpu": 1}), **_PLACED,
    ),
    "custom_command": Specification(
        "custom_command", "acme/own", "", "registry.example.com/own:1", {"command": "serve --port {port}", "health_path": "/ready", "port": 9000, "start_deadline_s": 60},
        cpu=1.0, memory=GIB, gpu=1, **(_PLACED | {"cache_claim": ""}),
    ),
    "simulator": Specification("simulator", "acme/sim", "", "docker.io/slipway/simulator:test", {}, cpu=0.5, memory=GIB, **(_PLACED | {"cache_claim": ""})),
}  # fmt: skip


def objects(name: str, *, sleeps: bool = False) -> list[dict[str, Any]]:
    """The Deployment and the Secrets of a case, with the model's token as the reconciler puts it in."""
    specification = CASES[name]
    chosen = engine(specification.engine)
    assert not chosen.cache_error(specification) and not chosen.source_error(specification, "kubernetes")
    assert not chosen.setting_errors(specification) and not chosen.field_errors(specification, "kubernetes")
    plan = chosen.plan(specification, "kubernetes").placed_like(specification)
    plan = replace(plan, secret_environment=dict.fromkeys(chosen.credential_variables, TOKEN))
    if plan.fetch is not None:
        # The store's key, which is the engine's business no more than the hub's token is the store's.
        fetch = replace(plan.fetch, secret_environment=dict.fromkeys(plan.fetch.credential_variables, TOKEN))
        plan = replace(plan, fetch=fetch, secret_environment={})
    workload = Workload("golden", "here", "v1", 1, "chat-v1")
    return [manifest.deployment(workload, plan, 2, description="{}", sleeps=sleeps), *manifest.secrets(workload, plan)]


class _Plain(yaml.SafeDumper):
    """Writes what comes twice twice: references are hard to review."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def text(name: str) -> str:
    return yaml.dump_all(objects(name), Dumper=_Plain, sort_keys=True)


@pytest.mark.parametrize("name", CASES)
def test_manifests_are_those_that_were_reviewed(name):
    assert text(name) == (FOLDER / f"{name}.yaml").read_text(), f"python -m {__name__} writes it anew"


@pytest.mark.parametrize("name", [name for name in CASES if name != "simulator"])
def test_every_field_of_the_form_is_in_the_manifest(name):
    specification, found = CASES[name], text(name)
    values = [
        specification.image, *specification.extra_arguments, *specification.environment, *specification.labels, *specification.annotations,
        *specification.node_selector.values(), specification.cache_claim, *(item.key for item in specification.tolerations),
        *(item.value for item in specification.pod_affinity), f"{round(specification.cpu * 1000)}m", str(specification.memory),
    ]  # fmt: skip
    settings = {key: value for key, value in specification.engine_settings.items() if not isinstance(value, bool)}
    # Of a deadline the startup probe has a multiple.
    values += [
        "failureThreshold" if key == "start_deadline_s" else str(value).split()[0] for key, value in settings.items()
    ]
    values += [str(specification.context_length or ""), str(specification.gpu or "")]
    assert [value for value in values if value and value not in found] == []


def test_the_key_of_nvidias_registry_is_in_secrets_alone():
    deployment, variables, login = objects("nim-1")
    assert TOKEN not in yaml.safe_dump(deployment)
    assert variables["stringData"]["NGC_API_KEY"] == TOKEN
    assert (
        login["type"] == "kubernetes.io/dockerconfigjson" and "$oauthtoken" in login["stringData"][".dockerconfigjson"]
    )
    pod = deployment["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": login["metadata"]["name"]}]
    assert pod["securityContext"]["fsGroup"] == 1000


def test_what_a_current_cluster_has_beyond_the_oldest():
    """Waiting without the image's help (1.30) and budgets under their last version: left out where they aren't there."""
    workload = manifest.Workload("golden", "here", "v1", 1, "chat-v1")
    plan = engine("simulator").plan(CASES["simulator"], "kubernetes")

    def before_the_end(sleeps: bool) -> dict[str, Any]:
        made = manifest.deployment(workload, plan, 2, sleeps=sleeps)
        (container,) = made["spec"]["template"]["spec"]["containers"]
        return dict(container["lifecycle"]["preStop"])

    assert before_the_end(True) == {"sleep": {"seconds": manifest.LEAVE_S}}
    assert before_the_end(False) == {"exec": {"command": ["sleep", str(manifest.LEAVE_S)]}}
    made = manifest.deployment(workload, plan, 2)
    budget = manifest.disruption_budget(made, "policy/v1")
    assert budget["spec"]["selector"] == made["spec"]["selector"] and budget["apiVersion"] == "policy/v1"


@pytest.mark.parametrize(
    ("version", "groups", "sleeps", "api"),
    [
        ({"major": "1", "minor": "20"}, [("policy", "policy/v1beta1")], False, "policy/v1beta1"),
        ({"major": "1", "minor": "29+"}, [("policy", "policy/v1")], False, "policy/v1"),
        ({"major": "1", "minor": "30+", "gitVersion": "v1.30.4-eks"}, [("policy", "policy/v1")], True, "policy/v1"),
        ({"major": "1", "minor": "36"}, [("apps", "apps/v1")], True, ""),
        ({"major": "x", "minor": None}, [("policy", "policy/v9/../../x")], False, ""),
    ],
)
def test_what_a_version_has_is_read_off_it(version, groups, sleeps, api):
    told = [{"name": name, "preferredVersion": {"groupVersion": value}} for name, value in groups]
    found = read(version, told)
    assert (found.sleeps, found.disruption_api) == (sleeps, api)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for case in CASES:
        (FOLDER / f"{case}.yaml").write_text(text(case))
