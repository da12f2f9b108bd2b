"""What the gateway routes by: an immutable picture of deployments and their ready instances, kept on disk too."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from common import atomic_file
from gateway import journal
from gateway.api_server import ApiServer, ApiServerUnusableError, unseal
from gateway.callers import API, Caller
from gateway.errors import GatewayError

log = logging.getLogger(__name__)

RUNNING = "running"


@dataclass(frozen=True)
class Address:
    """One ready instance. `uid` is 32 hexadecimal digits. Behind an API server, host and port are that one's.

    `prefix` is the instance's path there, empty for one that is reached directly.
    """

    uid: str
    host: str
    port: int
    prefix: str = ""
    api_server: ApiServer | None = None
    # Made once per snapshot, not once per request: the uid as the journal stores it; the Host header, begun by the end
    # of the line before.
    key: bytes = field(init=False, repr=False, compare=False)
    host_line: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", bytes.fromhex(self.uid))
        object.__setattr__(self, "host_line", f"\r\nhost: {self.host}:{self.port}\r\n".encode())

    @classmethod
    def behind(cls, api_server: ApiServer, uid: str, prefix: str) -> "Address":
        return cls(uid, api_server.host, api_server.port, prefix, api_server)

    def to_json(self) -> list[object]:
        if self.api_server is not None:
            return [self.uid, self.prefix, self.api_server.sealed]
        return [self.uid, self.host, self.port]

    @classmethod
    def from_json(cls, item: list[Any], keys: tuple[str, ...]) -> "Address":
        uid, place, rest = item
        return cls(uid, place, rest) if isinstance(rest, int) else cls.behind(unseal(rest, keys), uid, place)


@dataclass(frozen=True)
class Target:
    """One deployment as requests see it. `version_id` of 0 means that it has no version at all."""

    deployment_id: int
    organization_id: int
    api_id: str
    endpoint: str
    name: str
    version_id: int
    status: str
    status_label: str
    cause_code: str
    cause_message: str
    created: int
    addresses: tuple[Address, ...]
    # Who may call it: everybody, or keys of the owner's organization and those that it is shared with.
    is_public: bool = True
    is_shared_with_all: bool = False
    shared_with: tuple[int, ...] = ()
    # (whose, requests a minute, tokens a minute), 0 for no limit.
    limits: tuple[tuple[str, int, int], ...] = ()
    # Whether tokens cost something here or are limited: then each request counts some, whatever its path. But for those paths.
    counts_tokens: bool = False
    free_paths: tuple[str, ...] = ()
    # Made once per snapshot: how the journal's records name a request of nobody known.
    anonymous: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "anonymous", journal.parties(self.deployment_id, self.version_id, 0, 0, 0, API))

    def to_json(self) -> dict[str, object]:
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.init}
        return values | {"addresses": [address.to_json() for address in self.addresses]}

    def counts(self, path: bytes) -> bool:
        """Whether a request to `path` that generates something uses up tokens though its answer tells none."""
        return self.counts_tokens and path.decode("latin-1") not in self.free_paths

    def unavailable(self) -> GatewayError:
        """The 503 that says why nothing can be answered now."""
        details = {"deployment": self.api_id, "status": self.status}
        if self.cause_code:
            details["cause"] = self.cause_code
        message = f"The deployment {self.api_id} is {self.status_label}"
        if self.status == RUNNING:
            message = f"The deployment {self.api_id} is Running but has no ready instance"
        message += f": {self.cause_message}" if self.cause_message else "."
        remedy = {
            "preparing": " Try again in a few seconds.",
            "running": " Try again in a few seconds.",
            "shutting_down": " Another version may be taking its place; try again in a few seconds.",
        }.get(self.status, " Start a version of it in the Operations Console.")
        code = "no_ready_instance" if self.status == RUNNING else f"deployment_{self.status}"
        retry = 5 if self.status in ("preparing", "running", "shutting_down") else None
        return GatewayError(503, code, message + remedy, retry, details)


@dataclass(frozen=True)
class Snapshot:
    """`version` orders snapshots; look-ups are dictionaries made once per snapshot."""

    version: int
    targets: tuple[Target, ...]
    # Organizations that have used up their tokens of this month.
    spent: frozenset[int] = frozenset()
    by_prefix: dict[bytes, Target] = field(default_factory=dict, compare=False, repr=False)
    by_api_id: dict[str, Target] = field(default_factory=dict, compare=False, repr=False)
    by_name: dict[str, list[Target]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, version: int, targets: list[Target], spent: Iterable[int] = ()) -> "Snapshot":
        snapshot = cls(version, tuple(targets), frozenset(spent))
        for target in targets:
            snapshot.by_prefix[f"/{target.endpoint}/{target.name}".encode()] = target
            snapshot.by_api_id[target.api_id] = target
            snapshot.by_name.setdefault(target.name, []).append(target)
        return snapshot

    @classmethod
    def empty(cls) -> "Snapshot":
        return cls.of(0, [])

    @cached_property
    def has_public(self) -> bool:
        """Whether callers without a key may call anything at all."""
        return any(target.is_public for target in self.targets)

    def by_model(self, model: str, caller: Caller) -> Target:
        """The deployment that `model` names: its API id, or its bare name where the caller knows only one of it."""
        target = self.by_api_id.get(model)
        if target and caller.may_call(target):
            return target
        same_name = [item for item in self.by_name.get(model, []) if caller.may_call(item)]
        if len(same_name) == 1:
            return same_name[0]
        if same_name:
            ids = ", ".join(sorted(target.api_id for target in same_name))
            raise GatewayError(400, "model_ambiguous", f"Several deployments are called “{model}”. Use one of: {ids}.")
        raise GatewayError(
            404,
            "model_not_found",
            f"There is no deployment “{model}”, or it wants a key that may use it. GET /v1/models lists what you may use.",
        )

    def save(self, path: Path) -> None:
        atomic_file.write_bytes(
            path,
            orjson.dumps(
                {
                    "version": self.version,
                    "spent": sorted(self.spent),
                    "targets": [target.to_json() for target in self.targets],
                }
            ),
        )

    @classmethod
    def load(cls, path: Path, keys: tuple[str, ...]) -> "Snapshot":
        """The snapshot on disk; an empty one when there is none that can be read. `keys` unseal kubeconfigs."""
        stored: dict[str, Any] | None = atomic_file.read_json(path)
        try:
            return cls._of_json(stored, keys) if stored else cls.empty()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # Of another release, for example: the database has it all.
            log.warning("%s can't be read and is left alone: %r", path, error)
            return cls.empty()

    @classmethod
    def _of_json(cls, stored: dict[str, Any], keys: tuple[str, ...]) -> "Snapshot":
        targets = [
            Target(
                **item
                | {
                    "addresses": tuple(_usable(item["addresses"], keys)),
                    "shared_with": tuple(item["shared_with"]),
                    "free_paths": tuple(item.get("free_paths", ())),
                    "limits": tuple(tuple(limit) for limit in item["limits"]),
                }
            )
            for item in stored["targets"]
        ]
        return cls.of(stored["version"], targets, stored.get("spent", ()))


def _usable(items: list[list[Any]], keys: tuple[str, ...]) -> Iterator[Address]:
    for item in items:
        try:
            yield Address.from_json(item, keys)
        except ApiServerUnusableError as error:
            log.warning("an instance is left out: %s", error)
