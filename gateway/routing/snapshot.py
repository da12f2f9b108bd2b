"""What the gateway routes by: an immutable picture of deployments and their ready instances, kept on disk too."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from common import atomic_file
from gateway.access.callers import ANONYMOUS, HOW, Caller
from gateway.errors import GatewayError
from gateway.http.address import Address
from gateway.http.api_server import ApiServerUnusableError
from gateway.routing.target import Target

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """`version` orders snapshots; look-ups are dictionaries made once per snapshot."""

    version: int
    targets: tuple[Target, ...]
    # Organizations whose tokens of a month are bounded; those that have used them up.
    metered: frozenset[int] = frozenset()
    spent: frozenset[int] = frozenset()
    # Stands for this one where it may not be kept.
    picture: object = field(default_factory=object, compare=False, repr=False)
    by_prefix: dict[bytes, Target] = field(default_factory=dict, compare=False, repr=False)
    by_api_id: dict[str, Target] = field(default_factory=dict, compare=False, repr=False)
    by_name: dict[str, list[Target]] = field(default_factory=dict, compare=False, repr=False)
    # By organization and alias.
    by_alias: dict[int, dict[str, Target]] = field(default_factory=dict, hash=False, repr=False)

    @classmethod
    def of(
        cls,
        version: int,
        targets: list[Target],
        *,
        metered: Iterable[int] = (),
        spent: Iterable[int] = (),
        aliases: Iterable[tuple[int, str, int]] = (),
    ) -> "Snapshot":
        """`aliases`: organization, name, deployment."""
        snapshot = cls(version, tuple(targets), frozenset(metered), frozenset(spent))
        by_id = {target.deployment_id: target for target in targets}
        for organization, name, deployment in aliases:
            if deployment in by_id:
                snapshot.by_alias.setdefault(organization, {})[name] = by_id[deployment]
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

    @cached_property
    def has_private(self) -> bool:
        """Whether there is anything for which a key is wanted."""
        return not all(target.is_public for target in self.targets)

    @cached_property
    def origins_by_endpoint(self) -> dict[str, frozenset[str]]:
        """Whose pages may call, by the endpoint's name."""
        return {target.endpoint: frozenset(target.origins) for target in self.targets}

    @cached_property
    def origins(self) -> frozenset[str]:
        """Of all endpoints together."""
        return frozenset().union(*self.origins_by_endpoint.values())

    def by_model(self, model: str, caller: Caller) -> Target:
        """The deployment that `model` names: its API id, an alias of the caller's organization, or its bare name where the
        caller knows only one of it."""
        target = self.by_api_id.get(model)
        if target and caller.may_call(target):
            return target
        target = self.by_alias.get(caller.organization_id, {}).get(model)
        if target and caller.may_call(target):
            return target
        same_name = [item for item in self.by_name.get(model, []) if caller.may_call(item)]
        if len(same_name) == 1:
            return same_name[0]
        if same_name:
            ids = ", ".join(sorted(target.api_id for target in same_name))
            raise GatewayError(400, "model_ambiguous", f"Several deployments are called “{model}”. Use one of: {ids}.")
        raise self.unknown(f"deployment “{model}”", caller, "model_not_found")

    def unknown(self, what: str, caller: Caller, code: str) -> GatewayError:
        """What is told of a deployment that isn't there, or isn't for this caller: the same words."""
        if caller is ANONYMOUS and self.has_private:
            message = f"There is no public {what}. If it needs a key, send {HOW}"
            return GatewayError(401, "key_missing", message)
        if caller is ANONYMOUS:
            return GatewayError(404, code, f"There is no {what}. GET /v1/models lists what there is.")
        message = f"There is no {what}, or this key may not use it. GET /v1/models lists what you may use."
        return GatewayError(404, code, message)

    def save(self, path: Path) -> None:
        atomic_file.write_bytes(
            path,
            orjson.dumps(
                {
                    "version": self.version,
                    "metered": sorted(self.metered),
                    "spent": sorted(self.spent),
                    "aliases": [
                        (organization, name, target.deployment_id)
                        for organization, names in self.by_alias.items()
                        for name, target in names.items()
                    ],
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
                    **{name: tuple(item.get(name, ())) for name in ("free_paths", "kinds", "price", "origins")},
                    "limits": tuple(tuple(limit) for limit in item["limits"]),
                }
            )
            for item in stored["targets"]
        ]
        lists = {name: stored.get(name, ()) for name in ("metered", "spent", "aliases")}
        return cls.of(stored["version"], targets, **lists)


def _usable(items: list[list[Any]], keys: tuple[str, ...]) -> Iterator[Address]:
    for item in items:
        try:
            yield Address.from_json(item, keys)
        except ApiServerUnusableError as error:
            log.warning("an instance is left out: %s", error)
