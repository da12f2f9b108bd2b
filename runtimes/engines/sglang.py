"""SGLang: large language models on NVIDIA GPUs, in pods, with a prefix cache that is always on unless one says so."""

import re
from collections.abc import Sequence

from runtimes.cause import Cause
from runtimes.engines.base import Default, Engine, Example, Setting, openai_examples
from runtimes.engines.signatures import GPU_MEMORY, HUGGING_FACE, Signature, diagnose, unknown_argument
from runtimes.launch_plan import PORT_PLACEHOLDER, LaunchPlan
from runtimes.specification import Specification

IMAGE = "lmsysorg/sglang:v0.5.9"
# What SGLang says at its start.
_SIGNATURES = (
    Signature(
        re.compile(r"context_length \(\d+\) is greater than the derived context_length \((\d+)\)"),
        "context_too_long",
        "The model was made for {0} tokens at most.",
        "context_length",
    ),
    Signature(
        re.compile(r"(Not enough memory\. Please try to increase --mem-fraction-static)"),
        "gpu_out_of_memory",
        "The share of GPU memory is too small for the model: {0}.",
        "engine_mem_fraction_static",
    ),
    unknown_argument(r"unrecognized arguments: (.+)", "SGLang"),
    GPU_MEMORY,
    *HUGGING_FACE,
)


class Sglang(Engine):
    name = "sglang"
    pods_only = True
    takes_weights = True
    metrics_path = "/metrics"
    speaks_anthropic = True
    free_paths = ("/tokenize", "/detokenize", "/flush_cache", "/abort_request", "/v1/messages/count_tokens")
    reserves_gpu_memory = True
    title = "SGLang"
    image_user_reason = "Its image keeps caches, and compiles kernels, below /root."
    summary = "Large language models on NVIDIA GPUs; quick with long shared prompts and structured answers."
    order = 12
    concurrency_setting = "max_running_requests"
    usual_concurrency = 64
    cache_path = "/root/.cache"
    shared_fields = frozenset({"image", "context_length", "prompt_caching", "cache_claim"})
    credential_variables = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    settings = (
        Setting("max_running_requests", "Requests at once", "integer", None, "Empty: SGLang's own choice.", 1, 16_384),
        Setting("mem_fraction_static", "Share of GPU memory", "number", None, "For weights and cache. Empty: SGLang's own choice.", 0.1, 0.98),
        Setting("start_deadline_s", "Start deadline (s)", "integer", 1800, "Weights are downloaded at the first start.", 30, 86_400),
    )  # fmt: skip

    def defaults(self, model_uri: str, driver: str) -> dict[str, Default]:
        return {
            "image": Default(IMAGE, "A release that this Slipway knows; over 10 GB, so mirror it near your nodes."),
            "cpu": Default(4.0, "Tokenizing and scheduling need a few cores beside the GPU."),
            "memory": Default(32 << 30, "Weights pass through memory, and its workers' shared memory counts too."),
            "gpu": Default(1, "Set to the number of GPUs that share one copy of the model."),
            "context_length": Default(8192, "Longer ones cost GPU memory; the model's own maximum is the limit."),
            "prompt_caching": Default(True, "Repeated beginnings of prompts are not computed again."),
        }

    def field_errors(self, specification: Specification, driver: str) -> dict[str, str]:
        errors = {}
        if not specification.model_uri:
            errors["model"] = "SGLang needs a model with an address: a Hugging Face repository (org/name) or a path."
        if specification.gpu < 1:
            errors["gpu"] = "SGLang needs at least one GPU."
        return errors

    def plan(self, specification: Specification, driver: str) -> LaunchPlan:
        settings = {setting.name: setting.default for setting in self.settings} | specification.engine_settings
        weights = self.weights(specification)
        arguments = ["python3", "-m", "sglang.launch_server", "--model-path", weights.argument]
        # Without a host it listens to its own pod only; without being asked it tells no metrics.
        arguments += ["--host", "0.0.0.0", "--port", PORT_PLACEHOLDER, "--enable-metrics"]  # noqa: S104
        arguments += ["--served-model-name", specification.served_model_name, "--tp-size", str(specification.gpu)]
        if specification.context_length:
            arguments += ["--context-length", str(specification.context_length)]
        if settings["max_running_requests"]:
            arguments += ["--max-running-requests", str(settings["max_running_requests"])]
        if settings["mem_fraction_static"]:
            arguments += ["--mem-fraction-static", f"{settings['mem_fraction_static']:g}"]
        if specification.prompt_caching is False:
            arguments.append("--disable-radix-cache")
        return LaunchPlan(
            engine=self.name,
            command=(*arguments, *specification.extra_arguments),
            image=specification.image,
            environment=specification.environment,
            secret_environment=specification.secret_environment,
            health_path="/health",
            metrics_path=self.metrics_path,
            start_deadline_s=float(settings["start_deadline_s"]),
            drain_s=60,
            cpu=specification.cpu,
            memory=specification.memory,
            gpu=specification.gpu,
            # Its workers talk through it; the container's 64 MiB are too few.
            shared_memory=16 << 30,
            volumes=(*self.cache(specification), *weights.volumes),
            fetch=weights.fetch,
        )

    def examples(self, specification: Specification) -> Sequence[Example]:
        return openai_examples(specification.served_model_name, embeddings=False)

    def diagnose(self, log_tail: Sequence[str], exit_code: int | None) -> Cause | None:
        return diagnose(log_tail, _SIGNATURES)
