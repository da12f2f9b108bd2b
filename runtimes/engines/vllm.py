"""vLLM: large language models on NVIDIA GPUs, in pods."""

import re
from collections.abc import Sequence

from runtimes.cause import Cause
from runtimes.engines.base import Default, Engine, Example, Setting, openai_examples
from runtimes.engines.signatures import GPU_MEMORY, HUGGING_FACE, Signature, diagnose, root_cause, unknown_argument
from runtimes.launch_plan import PORT_PLACEHOLDER, LaunchPlan
from runtimes.specification import Specification

IMAGE = "vllm/vllm-openai:v0.18.0"
# How long it finishes what it works on when it is told to end; unasked it breaks that off.
DRAIN_S = 45
_RELEASE = re.compile(r":v(\d+)\.(\d+)")
# What it says of memory at its start; NIM, which holds it inside, says the same.
MEMORY_SIGNATURES = (
    Signature(
        re.compile(r"estimated maximum model length is (\d+)"),
        "context_too_long",
        "The context doesn't fit into the GPU's memory; {0} tokens would.",
        "context_length",
    ),
    Signature(
        re.compile(r"greater than the derived max_model_len \(max_position_embeddings=(\d+)"),
        "context_too_long",
        "The model was made for {0} tokens at most.",
        "context_length",
    ),
    Signature(
        re.compile(r"(No available memory for the cache blocks|Free memory on device .*? less than desired)"),
        "gpu_out_of_memory",
        "The GPU's memory is too small for model and context, or something else uses it: {0}.",
    ),
)
_SIGNATURES = (
    *MEMORY_SIGNATURES,
    Signature(
        re.compile(r"attention heads \((\d+)\) must be divisible by tensor parallel size"),
        "bad_argument",
        "The model's {0} attention heads can't be shared by this number of GPUs.",
        "gpu",
    ),
    unknown_argument(r"unrecognized arguments: (.+)", "vLLM"),
    GPU_MEMORY,
    *HUGGING_FACE,
)


class Vllm(Engine):
    name = "vllm"
    pods_only = True
    takes_weights = True
    metrics_path = "/metrics"
    speaks_anthropic = True
    free_paths = ("/tokenize", "/detokenize", "/v1/messages/count_tokens")
    reserves_gpu_memory = True
    title = "vLLM"
    image_user_reason = "Its image keeps caches, and compiles kernels, below /root."
    summary = "Large language models on NVIDIA GPUs, many requests at once."
    order = 10
    concurrency_setting = "max_num_seqs"
    usual_concurrency = 64
    cache_path = "/root/.cache"
    shared_fields = frozenset({"image", "context_length", "prompt_caching", "cache_claim"})
    credential_variables = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    settings = (
        Setting("max_num_seqs", "Requests at once", "integer", None, "Empty: vLLM's own choice.", 1, 16_384),
        Setting("gpu_memory_utilization", "Share of GPU memory", "number", 0.9, "vLLM takes it at its start.", 0.1, 1),
        Setting("start_deadline_s", "Start deadline (s)", "integer", 1800, "Weights are downloaded at the first start.", 30, 86_400),
    )  # fmt: skip

    def defaults(self, model_uri: str, driver: str) -> dict[str, Default]:
        return {
            "image": Default(IMAGE, "A release that this Slipway knows; 10 to 25 GB, so mirror it near your nodes."),
            "cpu": Default(4.0, "Tokenizing and scheduling need a few cores beside the GPU."),
            "memory": Default(16 << 30, "Weights pass through memory on their way to the GPU."),
            "gpu": Default(1, "Set to the number of GPUs that share one copy of the model."),
            "context_length": Default(8192, "Longer ones cost GPU memory; the model's own maximum is the limit."),
            "prompt_caching": Default(True, "Repeated beginnings of prompts are not computed again."),
        }

    def field_errors(self, specification: Specification, driver: str) -> dict[str, str]:
        errors = {}
        if not specification.model_uri:
            errors["model"] = "vLLM needs a model with an address: a Hugging Face repository (org/name) or a path."
        if specification.gpu < 1:
            errors["gpu"] = "vLLM needs at least one GPU."
        return errors

    def plan(self, specification: Specification, driver: str) -> LaunchPlan:
        settings = {setting.name: setting.default for setting in self.settings} | specification.engine_settings
        weights = self.weights(specification)
        arguments = ["vllm", "serve", weights.argument, "--host", "0.0.0.0", "--port", PORT_PLACEHOLDER]  # noqa: S104
        arguments += ["--served-model-name", specification.served_model_name]
        arguments += ["--tensor-parallel-size", str(max(1, specification.gpu))]
        arguments += ["--gpu-memory-utilization", f"{settings['gpu_memory_utilization']:g}"]
        if specification.context_length:
            arguments += ["--max-model-len", str(specification.context_length)]
        if settings["max_num_seqs"]:
            arguments += ["--max-num-seqs", str(settings["max_num_seqs"])]
        if _drains(specification.image) and "--shutdown-timeout" not in " ".join(specification.extra_arguments):
            arguments += ["--shutdown-timeout", str(DRAIN_S)]
        caching = "--no-enable-prefix-caching" if specification.prompt_caching is False else "--enable-prefix-caching"
        return LaunchPlan(
            engine=self.name,
            command=(*arguments, caching, *specification.extra_arguments),
            image=specification.image,
            environment=specification.environment,
            secret_environment=specification.secret_environment,
            health_path="/health",
            metrics_path=self.metrics_path,
            start_deadline_s=float(settings["start_deadline_s"]),
            drain_s=DRAIN_S + 15,
            cpu=specification.cpu,
            memory=specification.memory,
            gpu=specification.gpu,
            # Tensor-parallel workers talk through it; the container's 64 MiB are too few.
            shared_memory=2 << 30,
            volumes=(*self.cache(specification), *weights.volumes),
            fetch=weights.fetch,
        )

    def examples(self, specification: Specification) -> Sequence[Example]:
        return openai_examples(specification.served_model_name, embeddings=False)

    def diagnose(self, log_tail: Sequence[str], exit_code: int | None) -> Cause | None:
        return diagnose(log_tail, _SIGNATURES) or root_cause(log_tail)


def _drains(image: str) -> bool:
    """Whether the release knows `--shutdown-timeout`; one that doesn't would refuse to start with it."""
    release = _RELEASE.search(image)
    return release is not None and (int(release[1]), int(release[2])) >= (0, 18)
