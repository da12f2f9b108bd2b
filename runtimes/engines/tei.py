"""Text Embeddings Inference: embeddings and rerankers, in pods, on CPU or one GPU."""

import re
from collections.abc import Sequence

from runtimes.cause import Cause
from runtimes.engines.base import Default, Engine, Example, Setting
from runtimes.engines.signatures import GPU_MEMORY, HUGGING_FACE, diagnose, unknown_argument
from runtimes.launch_plan import PORT_PLACEHOLDER, LaunchPlan
from runtimes.specification import Specification

REPOSITORY = "ghcr.io/huggingface/text-embeddings-inference"
IMAGE = f"{REPOSITORY}:cpu-1.9"
_OF_CPU = re.compile(r":cpu-")
_SIGNATURES = (
    unknown_argument(r"unexpected argument '(.+?)' found", "Text Embeddings Inference"),
    GPU_MEMORY,
    *HUGGING_FACE,
)


class Tei(Engine):
    name = "tei"
    pods_only = True
    takes_weights = True
    metrics_path = "/metrics"
    free_paths = ("/tokenize", "/decode")
    kinds = ("embedding", "rerank")
    title = "Text Embeddings Inference"
    image_user_reason = "Its image keeps models in /data, which is root's."
    summary = "Embeddings and rerankers, on CPU or one GPU."
    order = 16
    concurrency_setting = "max_concurrent_requests"
    cache_path = "/data"
    shared_fields = frozenset({"image", "cache_claim"})
    credential_variables = ("HF_TOKEN",)
    settings = (
        Setting("max_concurrent_requests", "Requests at once", "integer", 512, "More are refused with 429.", 1, 100_000),
        Setting("max_batch_tokens", "Tokens in a batch", "integer", 16_384, "As many as the memory holds at once.", 16, 10_000_000),
        Setting("max_client_batch_size", "Texts in a request", "integer", 32, "More are refused with 422.", 1, 100_000),
        Setting("auto_truncate", "Cut long texts", "boolean", True, "Else a text longer than the model takes is refused."),
        Setting("start_deadline_s", "Start deadline (s)", "integer", 900, "Weights are downloaded at the first start.", 30, 86_400),
    )  # fmt: skip

    def defaults(self, model_uri: str, driver: str) -> dict[str, Default]:
        return {
            "image": Default(IMAGE, f"For CPUs. With a GPU take the one of its generation: {REPOSITORY}:1.9 is for A100."),
            "cpu": Default(4.0, "On CPUs, speed grows with cores."),
            "memory": Default(4 << 30, "Twice the size of the weights, and some for batches."),
            "gpu": Default(0, "One at most; small models are quick enough on CPUs."),
        }  # fmt: skip

    def field_errors(self, specification: Specification, driver: str) -> dict[str, str]:
        errors = {}
        if not specification.model_uri:
            errors["model"] = "Choose a model with an address: a Hugging Face repository (org/name) or a path."
        if specification.gpu > 1:
            errors["gpu"] = "Text Embeddings Inference uses one GPU. For more throughput ask for more replicas."
        is_of_cpu = bool(_OF_CPU.search(specification.image))
        if specification.gpu and is_of_cpu:
            errors["image"] = f"This image leaves the GPU unused. Take {REPOSITORY}:1.9 (A100), :86-1.9 (A10), :89-1.9 (L4), :hopper-1.9 (H100)."  # fmt: skip
        return errors

    def plan(self, specification: Specification, driver: str) -> LaunchPlan:
        settings = {setting.name: setting.default for setting in self.settings} | specification.engine_settings
        weights = self.weights(specification)
        arguments = ["--model-id", weights.argument, "--hostname", "0.0.0.0", "--port", PORT_PLACEHOLDER]  # noqa: S104
        arguments += ["--served-model-name", specification.served_model_name]
        for name in ("max_concurrent_requests", "max_batch_tokens", "max_client_batch_size"):
            arguments += [f"--{name.replace('_', '-')}", str(settings[name])]
        # As much as the gateway takes; its own bound is 2 MB.
        arguments += ["--payload-limit", str(32 << 20)]
        return LaunchPlan(
            engine=self.name,
            command=(*arguments, *specification.extra_arguments),
            # Images for several generations of GPUs choose the program by the device.
            behind_entrypoint=True,
            image=specification.image,
            # By its variable: as an argument older releases can't be told no, nor later ones yes by leaving it out.
            environment={"AUTO_TRUNCATE": str(bool(settings["auto_truncate"])).lower()} | specification.environment,
            secret_environment=specification.secret_environment,
            health_path="/health",
            metrics_path=self.metrics_path,
            start_deadline_s=float(settings["start_deadline_s"]),
            drain_s=30,
            cpu=specification.cpu,
            memory=specification.memory,
            gpu=specification.gpu,
            volumes=(*self.cache(specification), *weights.volumes),
            fetch=weights.fetch,
        )

    def examples(self, specification: Specification) -> Sequence[Example]:
        model = specification.served_model_name
        texts = ["A quay for ships.", "A cup of tea."]
        return [
            Example("Embeddings", "POST", "/v1/embeddings", {"model": model, "input": "Where do ships land?"}),
            Example("Embed", "POST", "/embed", {"inputs": texts}),
            Example("Rerank", "POST", "/rerank", {"query": "Where do ships land?", "texts": texts}),
            Example("About the model", "GET", "/info"),
            Example("Health", "GET", "/health"),
        ]

    def diagnose(self, log_tail: Sequence[str], exit_code: int | None) -> Cause | None:
        return diagnose(log_tail, _SIGNATURES)
