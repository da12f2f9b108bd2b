"""The simulator: answers like an OpenAI-compatible engine without a model, a GPU or a download."""

import sys
from collections.abc import Sequence
from pathlib import Path

from runtimes.engines.base import KUBERNETES, Default, Engine, Example, Setting, openai_examples
from runtimes.launch_plan import PORT_PLACEHOLDER, LaunchPlan
from runtimes.specification import Specification

IMAGE = "slipway/simulator:0.1.0"
# In pods; any that isn't root's.
USER = 1000
PROJECT_ROOT = Path(__file__).resolve().parents[2]


class Simulator(Engine):
    name = "simulator"
    kinds = ("chat", "completion", "embedding")
    metrics_path = "/metrics"
    title = "Simulator"
    summary = "Not a model: made-up answers at a speed you set, to try everything without a GPU."
    order = 30
    concurrency_setting = "concurrency"
    shared_fields = frozenset({"image", "context_length"})
    settings = (
        Setting(
            "time_to_first_token_ms",
            "Time to first token (ms)",
            "integer",
            200,
            "A small model on one GPU.",
            0,
            600_000,
        ),
        Setting("inter_token_ms", "Time between tokens (ms)", "integer", 30, "About 33 tokens a second.", 0, 60_000),
        Setting(
            "concurrency", "Requests at once", "integer", 8, "More of them wait in the simulator's queue.", 1, 10_000
        ),
        Setting(
            "load_time_s",
            "Load time (s)",
            "number",
            2,
            "Shows the steps of a start; real weights take minutes.",
            0,
            3600,
        ),
        Setting("failure_rate", "Share of requests that fail", "number", 0, "0 to 1; the others succeed.", 0, 1),
        Setting("crash_after_s", "Crash after (s)", "number", 0, "0 never crashes.", 0, 86_400),
        Setting(
            "memory_growth_mb_per_minute",
            "Memory growth (MB a minute)",
            "number",
            0,
            "A leak to watch; 0 is none.",
            0,
            100_000,
        ),
        Setting(
            "cpu_burn_cores", "CPU burned while serving (cores)", "number", 0, "Load to watch on the charts.", 0, 64
        ),
    )

    def source_error(self, specification: Specification, driver: str) -> str | None:
        """It pretends to be any model, wherever that lies."""
        return None

    def defaults(self, model_uri: str, driver: str) -> dict[str, Default]:
        return {
            "cpu": Default(0.5, "It mostly waits."),
            "memory": Default(256 << 20, "Python and a small buffer need about 60 MiB."),
            "gpu": Default(0, "It computes nothing."),
            "image": Default(
                IMAGE, "Made from runtimes/simulator/Dockerfile; nodes need it or a registry that has it."
            ),
            "context_length": Default(4096, "Longer prompts are refused, as an engine would."),
        }

    def plan(self, specification: Specification, driver: str) -> LaunchPlan:
        settings = {setting.name: setting.default for setting in self.settings} | specification.engine_settings
        in_pod = driver == KUBERNETES
        arguments = ["python3" if in_pod else sys.executable, "-m", "runtimes.simulator", "--port", PORT_PLACEHOLDER]
        arguments += ["--host", "0.0.0.0"] if in_pod else []  # noqa: S104 (a pod's own address)
        arguments += ["--model", specification.served_model_name]
        if specification.context_length:
            arguments += ["--context-length", str(specification.context_length)]
        for setting in self.settings:
            arguments += [f"--{setting.name.replace('_', '-')}", str(settings[setting.name])]
        return LaunchPlan(
            engine=self.name,
            command=(*arguments, *specification.extra_arguments),
            image=specification.image if in_pod else "",
            run_as=USER if in_pod else None,
            environment=({} if in_pod else {"PYTHONPATH": str(PROJECT_ROOT), "PYTHONUNBUFFERED": "1"})
            | specification.environment,
            secret_environment=specification.secret_environment,
            metrics_path=self.metrics_path,
            start_deadline_s=float(settings["load_time_s"]) + 120,
            cpu=specification.cpu,
            memory=specification.memory,
            gpu=specification.gpu,
        )

    def examples(self, specification: Specification) -> Sequence[Example]:
        crash = Example("Crash the instance", "POST", "/simulate/crash")
        return [*openai_examples(specification.served_model_name, embeddings=True), crash]
