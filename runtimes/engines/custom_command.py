"""Any program that serves HTTP: the user gives its command."""

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from runtimes.engines.base import KUBERNETES, Default, Engine, Example, Setting
from runtimes.launch_plan import PORT_PLACEHOLDER, LaunchPlan
from runtimes.specification import Specification

# No shell reads the command, yet people write this.
_PORT_VARIABLE = re.compile(r"\$(?:PORT\b|\{PORT\})")


class CustomCommand(Engine):
    name = "custom_command"
    title = "Custom command"
    names_model = False
    kinds = ()
    image_user_reason = "Nobody knows which user the image needs."
    summary = "Any program that serves HTTP, by its command."
    order = 40
    takes_weights = True
    shared_fields = frozenset({"image"})
    settings = (
        Setting(
            "command",
            "Command",
            "text",
            "",
            "{port} and $PORT stand for the port that Slipway chooses. In a pod empty means the image's own command.",
        ),
        Setting(
            "port",
            "Port",
            "integer",
            None,
            "Empty: Slipway chooses a free one. Fill it in when the program insists on its own.",
            1,
            65535,
        ),
        Setting("health_path", "Health path", "text", "/", "Ready when it answers 200 to 399 here.", required=True),
        Setting("working_directory", "Working directory", "text", "", "Empty: a folder of the instance's own."),
        Setting("start_deadline_s", "Start deadline (s)", "integer", 300, "Not ready by then is an error.", 5, 86_400),
    )

    def defaults(self, model_uri: str, driver: str) -> dict[str, Default]:
        return {
            "cpu": Default(1.0, "Nothing is known about the program; watch its chart and adjust."),
            "memory": Default(1 << 30, "Nothing is known about the program; watch its chart and adjust."),
            "gpu": Default(0, "Set it when the program uses one."),
        }

    def field_errors(self, specification: Specification, driver: str) -> dict[str, str]:
        errors = {}
        try:
            words = shlex.split(specification.engine_settings.get("command") or "")
        except ValueError as error:
            return {"engine_command": f"The command can't be split into words: {error}. Check the quotes."}
        in_pod = driver == KUBERNETES
        if not words and not in_pod:
            errors["engine_command"] = "Command is needed."
        if words and not in_pod and shutil.which(words[0]) is None:
            errors["engine_command"] = (
                f"“{words[0]}” is not a program on this machine. Give its full path, or install it."
            )
        health_path = specification.engine_settings.get("health_path") or ""
        if not health_path.startswith("/"):
            errors["engine_health_path"] = "A path starts with “/”."
        directory = specification.engine_settings.get("working_directory")
        if directory and not in_pod and not Path(directory).is_dir():
            errors["engine_working_directory"] = f"There is no folder “{directory}” on this machine."
        return errors

    def plan(self, specification: Specification, driver: str) -> LaunchPlan:
        settings = {setting.name: setting.default for setting in self.settings} | specification.engine_settings
        weights = self.weights(specification)
        words = shlex.split(settings["command"] or "")
        # Where a claim or a store has been mounted; other addresses mean to the program whatever they mean to it.
        place = {"MODEL_PATH": weights.argument} if weights.volumes else {}
        return LaunchPlan(
            engine=self.name,
            # Never None: shlex would then read standard input.
            image=specification.image if driver == KUBERNETES else "",
            command=(*(_PORT_VARIABLE.sub(PORT_PLACEHOLDER, word) for word in words), *specification.extra_arguments),
            environment=place | specification.environment,
            secret_environment=specification.secret_environment,
            fixed_port=settings["port"],
            health_path=settings["health_path"],
            start_deadline_s=float(settings["start_deadline_s"]),
            cpu=specification.cpu,
            memory=specification.memory,
            gpu=specification.gpu,
            volumes=weights.volumes,
            fetch=weights.fetch,
            working_directory=settings["working_directory"] or None,
        )

    def examples(self, specification: Specification) -> Sequence[Example]:
        return [Example("Health", "GET", specification.engine_settings.get("health_path") or "/")]
