"""What an engine is: pure code from a specification to a launch plan. No I/O but looking for its own program."""

import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from runtimes import model_source
from runtimes.cause import Cause
from runtimes.launch_plan import Fetch, LaunchPlan, Volume
from runtimes.model_source import MOUNT, BucketSource, ClaimSource, SourceError
from runtimes.names import object_name_error
from runtimes.specification import Specification

_IMAGE = re.compile(r"[a-z0-9]([a-zA-Z0-9._:/-]*[a-zA-Z0-9])?(@sha256:[0-9a-f]{64})?")
# Brings files from a store; mirror it near your nodes with `SLIPWAY_FETCH_IMAGE`.
FETCH_IMAGE = os.environ.get("SLIPWAY_FETCH_IMAGE", "docker.io/rclone/rclone:1.71.2")
# Half of a file has a name of its instance's own, or two that fetch the same would write into one another's. A store tells of a
# path that isn't there as of an empty one.
_FETCH = """rclone copy "$1" "$2" --partial-suffix ".${SLIPWAY_INSTANCE%%-*}" --transfers 8 --stats 10s --stats-one-line -v || exit
[ -n "$(ls -A "$3" 2>/dev/null)" ] || { echo "nothing lies at $1" >&2; exit 4; }"""
_RCLONE = "RCLONE_CONFIG_MODEL_"
LOCAL = "local"
KUBERNETES = "kubernetes"


@dataclass(frozen=True)
class Setting:
    """A form field that only this engine has. `kind` is text, integer, number, boolean or choice."""

    name: str
    label: str
    kind: str
    default: Any
    reason: str
    minimum: float | None = None
    maximum: float | None = None
    required: bool = False
    choices: tuple[tuple[str, str], ...] = ()

    def error(self, value: Any) -> str | None:
        """Why `value` can't be this setting's; None when it can."""
        if value is None or value == "":
            return f"{self.label} is needed." if self.required else None
        if self.kind in ("integer", "number"):
            return self._number_error(value)
        if self.kind == "boolean":
            return None if isinstance(value, bool) else f"{self.label} is true or false."
        if not isinstance(value, str) or "\0" in value or len(value) > 2000:
            return f"{self.label} is a text of at most 2,000 characters."
        if self.kind == "choice" and value not in dict(self.choices):
            return f"{self.label} is one of {', '.join(dict(self.choices))}."
        return None

    def _number_error(self, value: Any) -> str | None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or (self.kind == "integer" and value != int(value)):
            return f"{self.label} is a {'whole ' if self.kind == 'integer' else ''}number."
        if self.minimum is not None and value < self.minimum:
            return f"{self.label} is at least {self.minimum:g}."
        if self.maximum is not None and value > self.maximum:
            return f"{self.label} is at most {self.maximum:g}."
        return None


@dataclass(frozen=True)
class Default:
    """A value filled in for the user, with the reason shown beside it."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Weights:
    """`argument` is how the engine is told of its model: a name in a hub, or a path in the instance."""

    argument: str
    volumes: tuple[Volume, ...] = ()
    fetch: Fetch | None = None


@dataclass(frozen=True)
class Example:
    """A request that works with this engine as it is. `path` is below the deployment's address."""

    title: str
    method: str
    path: str
    body: dict[str, Any] | None = None


class Engine(ABC):
    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    order: ClassVar[int] = 100
    settings: ClassVar[tuple[Setting, ...]] = ()
    # Of the fields that several engines share (image, context_length, prompt_caching, cache_claim), those that mean something here.
    shared_fields: ClassVar[frozenset[str]] = frozenset()
    # Where instances tell of themselves in Prometheus' format; None where they don't.
    metrics_path: ClassVar[str | None] = None
    # Whether it can be given files from a volume claim or a store.
    takes_weights: ClassVar[bool] = False
    # Whether it comes as an image only.
    pods_only: ClassVar[bool] = False
    # Whether it takes a fixed share of the GPU's memory when it starts: how full that is then tells nothing of the load.
    reserves_gpu_memory: ClassVar[bool] = False
    # Why its pods run as whom its image says, mostly root; empty where its plans name a user of their own.
    image_user_reason: ClassVar[str] = ""
    # Where its image keeps downloaded models: a claim that is named is mounted there. Empty where nothing is downloaded.
    cache_path: ClassVar[str] = ""
    # What can be posted there generates nothing: it uses up no tokens.
    free_paths: ClassVar[tuple[str, ...]] = ()
    # Whether what it counts of prompts holds tokens that it had cached.
    counts_cached: ClassVar[bool] = True
    # Whether it answers Anthropic's API beside OpenAI's.
    speaks_anthropic: ClassVar[bool] = False
    # What its models do, as /v1/models tells.
    kinds: ClassVar[tuple[str, ...]] = ("chat", "completion")
    # Whether it is told by what name to serve its model.
    names_model: ClassVar[bool] = True
    # Whether each of its streams tells the tokens used in an event that holds this, asked for or not.
    streams_tell: ClassVar[str] = ""
    # The setting that says how many requests one instance works on at once, and what holds where none does.
    concurrency_setting: ClassVar[str] = ""
    usual_concurrency: ClassVar[int] = 8
    # The environment variables in which this engine expects the token of the model's source, and the sources whose tokens
    # those are for: another vendor's must never be sent there.
    credential_variables: ClassVar[tuple[str, ...]] = ()
    credential_sources: ClassVar[frozenset[str]] = frozenset({"hugging_face", "custom"})

    def context_of(self, specification: Specification) -> int | None:
        """How many tokens one request may have, prompt and answer together; None where the model's own figure holds."""
        return specification.context_length

    def unavailable_reason(self, driver: str) -> str | None:
        """Why this engine can't run with that driver, with the remedy; None when it can."""
        if self.pods_only and driver != KUBERNETES:
            return f"{self.title} runs in pods: use an endpoint on a Kubernetes cluster."
        return None

    @abstractmethod
    def defaults(self, model_uri: str, driver: str) -> dict[str, Default]:
        """Values for cpu (cores), memory (bytes), gpu and the shared fields, with reasons."""

    @abstractmethod
    def plan(self, specification: Specification, driver: str) -> LaunchPlan:
        """The launch plan of one instance. Same input, same plan."""

    @abstractmethod
    def examples(self, specification: Specification) -> Sequence[Example]:
        """Requests to try in Online Testing."""

    def field_errors(self, specification: Specification, driver: str) -> dict[str, str]:
        """Messages by form field for what would not start; settings of the engine are named `engine_{name}`."""
        return {}

    def setting_errors(self, specification: Specification) -> dict[str, str]:
        """Messages by form field for settings of the wrong kind, out of range or missing."""
        errors = {}
        known = {setting.name: setting for setting in self.settings}
        for name in specification.engine_settings:
            if name not in known:
                errors[f"engine_{name}"] = (
                    f"{self.title} has no setting “{name}”. It has: {', '.join(known) or 'none'}."
                )
        for name, setting in known.items():
            problem = setting.error(specification.engine_settings.get(name, setting.default))
            if problem:
                errors[f"engine_{name}"] = problem
        return errors

    def image_for(self, gpu: int, model_uri: str) -> str:
        """The image for so many GPUs; empty where there is none to propose."""
        default = self.defaults(model_uri, KUBERNETES).get("image")
        return str(default.value) if default else ""

    def concurrency(self, specification: Specification) -> int:
        """How many requests one instance works on at once; more would wait inside it."""
        defaults = {setting.name: setting.default for setting in self.settings}
        name = self.concurrency_setting
        return int(specification.engine_settings.get(name) or defaults.get(name) or self.usual_concurrency)

    def weights(self, specification: Specification) -> Weights:
        """Where the instance finds the model's files, and what brings them there."""
        source = model_source.read(specification.model_uri)
        if source is None:
            return Weights(specification.model_uri)
        if isinstance(source, ClaimSource):
            return Weights(source.mounted, (Volume("model", source.claim, MOUNT, read_only=True),))
        # Kept where the downloads are kept, if anywhere: replicas and restarts fetch only what is missing there.
        folder = f"fetched/{source.folder}" if specification.cache_claim else ""
        volume = Volume("model", specification.cache_claim, MOUNT, read_only=True, sub_path=folder)
        return Weights(source.mounted, (volume,), fetch_from(source))

    def source_error(self, specification: Specification, driver: str) -> str | None:
        """Why the model's address can't be used; None when it can, or when it is the engine's own business."""
        try:
            source = model_source.read(specification.model_uri)
        except SourceError as error:
            return str(error)
        if source is None:
            return None
        if driver != KUBERNETES or not self.takes_weights:
            return f"{self.title} can't take its model from {'a volume claim' if isinstance(source, ClaimSource) else 'a store'} here."
        if isinstance(source, ClaimSource):
            return _claim_error(source.claim, specification)
        return None

    def cache(self, specification: Specification) -> tuple[Volume, ...]:
        """The volume that keeps its downloads, if the specification names one."""
        if not specification.cache_claim or not self.cache_path:
            return ()
        return (Volume("model-cache", specification.cache_claim, self.cache_path),)

    def cache_error(self, specification: Specification) -> str | None:
        """Why the claim can't keep the downloads; None when it can, or when none is named."""
        if not specification.cache_claim:
            return None
        if not self.cache_path and not isinstance(_source(specification), BucketSource):
            return f"{self.title} downloads no models, so it needs no claim."
        return _claim_error(specification.cache_claim, specification)

    def image_error(self, specification: Specification, driver: str) -> str | None:
        """Why the image can't be used; None when it can, or when none is pulled."""
        if driver != KUBERNETES:
            return None
        if not specification.image:
            return "A pod needs an image. Name one that the cluster's nodes can pull."
        if not _IMAGE.fullmatch(specification.image):
            return f"“{specification.image}” is no image's name, for example registry.example.com/team/name:tag."
        return None

    def diagnose(self, log_tail: Sequence[str], exit_code: int | None) -> Cause | None:
        """The cause that this engine's own last words tell; None when they tell nothing."""
        return None


def _source(specification: Specification) -> ClaimSource | BucketSource | None:
    try:
        return model_source.read(specification.model_uri)
    except SourceError:
        return None


def _claim_error(claim: str, specification: Specification) -> str | None:
    owner = specification.served_model_name.partition("/")[0]
    # One namespace may serve several organizations; nobody's files are another one's to read or to change.
    if owner and not claim.startswith(f"{owner}."):
        return f"Claims belong to organizations: name one that begins with “{owner}.”, as {owner}.models."
    return object_name_error(claim)


def fetch_from(source: BucketSource) -> Fetch:
    """By rclone, which leaves alone what is there already."""
    settings = {
        "TYPE": "s3",
        "PROVIDER": "Other" if source.endpoint else "AWS",
        "ENDPOINT": source.endpoint,
        "REGION": source.region,
    }
    return Fetch(
        image=FETCH_IMAGE,
        command=("sh", "-c", _FETCH, "fetch", f"model:{source.bucket}/{source.path}", MOUNT, source.mounted),
        path=MOUNT,
        environment={f"{_RCLONE}{name}": value for name, value in settings.items() if value},
        credential_variables=(f"{_RCLONE}ACCESS_KEY_ID", f"{_RCLONE}SECRET_ACCESS_KEY"),
    )


def openai_examples(served_model_name: str, *, embeddings: bool) -> list[Example]:
    """The requests that every OpenAI-compatible engine answers."""
    question = [{"role": "user", "content": "Say hello in one sentence."}]
    chat = {"model": served_model_name, "messages": question, "max_tokens": 64}
    examples = [
        Example("Chat, streamed", "POST", "/v1/chat/completions", {**chat, "stream": True}),
        Example("Chat", "POST", "/v1/chat/completions", chat),
        Example(
            "Completion",
            "POST",
            "/v1/completions",
            {"model": served_model_name, "prompt": "Once upon a time", "max_tokens": 32},
        ),
    ]
    if embeddings:
        examples.append(Example("Embeddings", "POST", "/v1/embeddings", {"model": served_model_name, "input": "Hello"}))
    examples += [Example("List models", "GET", "/v1/models"), Example("Health", "GET", "/health")]
    return examples
