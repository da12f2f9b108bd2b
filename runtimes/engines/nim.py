"""NVIDIA NIM: large language models as NVIDIA packs them, one image for each model, in pods."""

import re
import shlex
from collections.abc import Sequence

from runtimes.cause import Cause
from runtimes.engines.base import Default, Engine, Example, Setting, openai_examples
from runtimes.engines.signatures import GPU_MEMORY, Signature, diagnose, unknown_argument
from runtimes.engines.vllm import MEMORY_SIGNATURES
from runtimes.launch_plan import PORT_PLACEHOLDER, LaunchPlan, RegistryLogin
from runtimes.specification import Specification

REGISTRY = "nvcr.io"
KEY = "NGC_API_KEY"
CACHE = "/opt/nim/.cache"
# Its container's user is 1000 in this group: without it nothing may be written to the cache.
GROUP = 1000
_SIGNATURES = (
    *MEMORY_SIGNATURES,
    Signature(
        # Never the words between: they may hold the key.
        re.compile(
            r"(NGC_API_KEY|[Aa]uthentication|[Aa]uthorization)\b.{0,80}(?:not set|missing|invalid|failed|[Ee]rror)"
        ),
        "registry_refused",
        "NVIDIA's catalogue doesn't hand the model out: something is wrong with {0}.",
    ),
    unknown_argument(r"unrecognized arguments: (.+)", "NIM"),
    GPU_MEMORY,
)


class Nim(Engine):
    name = "nim"
    pods_only = True
    metrics_path = "/v1/metrics"
    speaks_anthropic = True
    free_paths = ("/tokenize", "/detokenize", "/v1/messages/count_tokens")
    reserves_gpu_memory = True
    title = "NVIDIA NIM"
    summary = "Models as NVIDIA tunes and packs them; needs an NGC key and NVIDIA's license."
    order = 14
    usual_concurrency = 64
    cache_path = CACHE
    shared_fields = frozenset({"image", "context_length", "prompt_caching", "cache_claim"})
    # NVIDIA's older images read the second name.
    credential_variables = (KEY, "NGC_CLI_API_KEY")
    credential_sources = frozenset({"ngc"})
    settings = (
        Setting("licence", "NVIDIA's license is accepted", "boolean", False, "NIM may be used in production under the NVIDIA AI Enterprise license only; that is between you and NVIDIA."),
        Setting("model_profile", "Model profile", "text", "", "Empty: NIM takes the one that fits the GPUs best."),
        Setting("start_deadline_s", "Start deadline (s)", "integer", 2400, "Weights are downloaded at the first start.", 30, 86_400),
    )  # fmt: skip

    def defaults(self, model_uri: str, driver: str) -> dict[str, Default]:
        image = model_uri.removeprefix("ngc://")
        return {
            "image": Default(image if image.startswith(f"{REGISTRY}/") else "", f"The model's own, as {REGISTRY}/nim/meta/llama-3.1-8b-instruct:1.8."),
            "cpu": Default(8.0, "NVIDIA's own advice for one instance."),
            "memory": Default(32 << 30, "Weights pass through memory, and its workers' shared memory counts too."),
            "gpu": Default(1, "Set to the number of GPUs that share one copy of the model."),
            "context_length": Default(None, "Empty: as long as the model's profile allows."),
            "prompt_caching": Default(True, "Repeated beginnings of prompts are not computed again."),
        }  # fmt: skip

    def field_errors(self, specification: Specification, driver: str) -> dict[str, str]:
        errors = {}
        if not specification.image:
            errors["image"] = f"NIM has an image for each model, as {REGISTRY}/nim/meta/llama-3.1-8b-instruct:1.8."
        if specification.gpu < 1:
            errors["gpu"] = "NIM needs at least one GPU."
        if not specification.engine_settings.get("licence"):
            errors["engine_licence"] = "Tick it when your organization has accepted NVIDIA's license for this model."
        return errors

    def plan(self, specification: Specification, driver: str) -> LaunchPlan:
        settings = {setting.name: setting.default for setting in self.settings} | specification.engine_settings
        return LaunchPlan(
            engine=self.name,
            # The image's own command starts it; all is said by variables.
            command=(),
            image=specification.image,
            environment=self._environment(specification, settings) | specification.environment,
            secret_environment=specification.secret_environment,
            health_path="/v1/health/ready",
            liveness_path="/v1/health/live",
            metrics_path=self.metrics_path,
            start_deadline_s=float(settings["start_deadline_s"]),
            drain_s=60,
            cpu=specification.cpu,
            memory=specification.memory,
            gpu=specification.gpu,
            # Where GPUs lack NVLink its workers talk through it.
            shared_memory=16 << 30,
            volumes=self.cache(specification),
            file_group=GROUP,
            run_as=GROUP,
            registry_login=RegistryLogin(REGISTRY, "$oauthtoken", KEY) if specification.image.startswith(REGISTRY) else None,
        )  # fmt: skip

    @staticmethod
    def _environment(specification: Specification, settings: dict[str, object]) -> dict[str, str]:
        caching = specification.prompt_caching is not False
        # The first family (1.x) knows the variable; later ones hand arguments on to the engine inside, vLLM mostly, which
        # caches unless it is told not to.
        passed = [*([] if caching else ["--no-enable-prefix-caching"]), *specification.extra_arguments]
        found = {
            "NIM_HTTP_API_PORT": PORT_PLACEHOLDER,
            "NIM_SERVER_PORT": PORT_PLACEHOLDER,
            "NIM_CACHE_PATH": CACHE,
            "NIM_SERVED_MODEL_NAME": specification.served_model_name,
            "NIM_TENSOR_PARALLEL_SIZE": str(specification.gpu),
            "NIM_ENABLE_KV_CACHE_REUSE": "1" if caching else "0",
        }
        if passed:
            found["NIM_PASSTHROUGH_ARGS"] = shlex.join(passed)
        if specification.context_length:
            found["NIM_MAX_MODEL_LEN"] = str(specification.context_length)
        if settings["model_profile"]:
            found["NIM_MODEL_PROFILE"] = str(settings["model_profile"])
        return found

    def examples(self, specification: Specification) -> Sequence[Example]:
        common = [item for item in openai_examples(specification.served_model_name, embeddings=False) if item.path != "/health"]  # fmt: skip
        return [*common, Example("Health", "GET", "/v1/health/ready")]

    def diagnose(self, log_tail: Sequence[str], exit_code: int | None) -> Cause | None:
        return diagnose(log_tail, _SIGNATURES)
