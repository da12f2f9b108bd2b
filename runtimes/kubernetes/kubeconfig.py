"""Kubeconfigs as users hand them in. A kubeconfig is code: whatever would run a program or read a file is refused."""

import re
from typing import Any

import yaml

_REMEDY = "Use the token of a service account instead; the recipe below the form makes one."
_PROGRAMS = ("exec", "auth-provider")
_FILES = ("client-certificate", "client-key", "tokenFile", "certificate-authority")
_USER_KEYS = ("token", "client-certificate-data", "client-key-data", "username", "password")
_CLUSTER_KEYS = ("server", "certificate-authority-data", "insecure-skip-tls-verify", "tls-server-name")


# Real ones have a few kilobytes.
MOST_BYTES, _MOST_BRACKETS = 64 << 10, 500
# All values are texts to it: a number or a date that can't be one is no error of its own. Not the faster one of libyaml: what
# is nested deeply ends its process.
_Loader = yaml.BaseLoader
# What may stand in a header or an address: nothing that ends a line, and no other alphabet.
SENDABLE = re.compile(r"[\x20-\x7e]+")


class KubeconfigError(ValueError):
    """Why a kubeconfig can't be used, with the remedy."""


def read(text: str) -> dict[str, Any]:
    """The current context of a kubeconfig, reduced to what reaches the cluster. Raises KubeconfigError.

    The result is a kubeconfig itself, with one cluster, one user and one context.
    """
    if len(text) > MOST_BYTES:
        raise KubeconfigError(
            f"The kubeconfig is longer than {MOST_BYTES >> 10} KiB. Export only the context that is used."
        )
    if text.count("[") + text.count("{") > _MOST_BRACKETS:
        # The time that it takes to read them grows with the square of their depth, and kubeconfigs have hardly any.
        raise KubeconfigError(
            "The kubeconfig has too many brackets. Write it as kubectl does: kubectl config view --raw."
        )
    try:
        # Aliases could blow a small text up to gigabytes; no tool writes them into kubeconfigs.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader)):
            raise KubeconfigError("The kubeconfig uses YAML aliases. Write the values out.")
        loaded = yaml.load(text, Loader=_Loader)  # noqa: S506 (one of the safe ones)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f" in line {place.line + 1}" if place else ""
        raise KubeconfigError(f"The kubeconfig is not YAML{where}.") from None
    except RecursionError:
        raise KubeconfigError("The kubeconfig is nested too deeply.") from None
    if not isinstance(loaded, dict) or loaded.get("kind") != "Config":
        raise KubeconfigError("This is no kubeconfig: one says “kind: Config” at its top.")
    context = _named(loaded, "contexts", "context", loaded.get("current-context") or "")
    cluster = _named(loaded, "clusters", "cluster", context.get("cluster") or "")
    user = _named(loaded, "users", "user", context.get("user") or "")
    _refuse_code(cluster, user)
    server = cluster.get("server")
    if not isinstance(server, str) or not server.startswith("https://"):
        raise KubeconfigError("The cluster's “server” must be an https:// address: credentials are sent to it.")
    kept = {name: _sendable(name, user[name]) for name in _USER_KEYS if user.get(name)}
    if not kept:
        raise KubeconfigError(f"The user of the current context has no credentials in the file. {_REMEDY}")
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "slipway",
        "contexts": [{"name": "slipway", "context": {"cluster": "slipway", "user": "slipway"}}],
        "clusters": [
            {
                "name": "slipway",
                "cluster": {name: _plain(name, cluster[name]) for name in _CLUSTER_KEYS if name in cluster},
            }
        ],
        "users": [{"name": "slipway", "user": kept}],
    }


def _sendable(name: str, value: Any) -> str:
    """A credential as it is sent. YAML's block texts end with a line break, which isn't part of one. Says nothing of the value."""
    text = value.strip() if isinstance(value, str) else ""
    if not SENDABLE.fullmatch(text):
        raise KubeconfigError(
            f"“{name}” has a line break or another character that can't be sent. Paste it as one line."
        )
    return text


def _plain(name: str, value: Any) -> Any:
    text = _sendable(name, value)
    return text.lower() in ("true", "yes", "on") if name == "insecure-skip-tls-verify" else text


def _named(config: dict[str, Any], plural: str, singular: str, name: str) -> dict[str, Any]:
    entries = config.get(plural)
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(singular), dict):
            return dict(entry[singular])
    if singular == "context" and not name:
        raise KubeconfigError("The kubeconfig has no “current-context”. Set one: kubectl config use-context NAME.")
    raise KubeconfigError(f"The kubeconfig names the {singular} “{name}” but doesn't hold it.")


def _refuse_code(cluster: dict[str, Any], user: dict[str, Any]) -> None:
    for name in _PROGRAMS:
        if name in user:
            raise KubeconfigError(f"“{name}” would run a program on Slipway's machine, which is refused. {_REMEDY}")
    for name in _FILES:
        if name in user or name in cluster:
            raise KubeconfigError(
                f"“{name}” names a file of another machine. Put its content in: kubectl config view --raw --flatten."
            )
    if "proxy-url" in cluster:
        raise KubeconfigError("“proxy-url” is not supported. Give an address that is reached directly.")
