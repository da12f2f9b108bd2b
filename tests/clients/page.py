"""docs/clients.md, made of what the clients' tests found."""

import json
import re
from collections.abc import Mapping

from deployments.clients import CLIENTS, Client
from tests.clients.running import HERE, PROJECT, Outcome

PATH = PROJECT / "docs" / "clients.md"
_HEAD = """# Clients

Tried by `tests/clients` with the versions named here, against the simulator and llama.cpp, with the settings below as they stand. The Developer
Hub shows them for each deployment. What is raised is the library's own exception; its message is the gateway's, which says what to do.
*Over the limit* and *stopped* are retried by most libraries before they raise. A stream that breaks off is never taken for a whole one.

| Client | Answers | Streams | Tells tokens | Wrong key | Over the limit | Stopped | Stream cut |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
_FENCES = {"Python": "python", "JavaScript": "js", "Java": "java", "Shell": "sh"}


def render(outcomes: Mapping[str, Mapping[str, Outcome]]) -> str:
    rows = "\n".join(_row(client, outcomes[client.id]) for client in CLIENTS)
    settings = "\n".join(_settings(client) for client in CLIENTS)
    return f"{_HEAD}{rows}\n\ncurl is tried with `--http2`, `--http1.0` and a gzip body, too; Java's client offers HTTP/2.\n\n## Settings\n\nThe key is in the environment as `API_KEY`.\n\n{settings}"


def _row(client: Client, found: Mapping[str, Outcome]) -> str:
    tells = any(found[name].tokens for name in ("plain", "streamed"))
    raised = [_raised(found[name]) for name in ("wrong key", "over the limit", "stopped", "cut")]
    name = f"{client.title} ({client.language}{', ' + _version(client) if _version(client) else ''})"
    return f"| {' | '.join([name, 'yes', 'yes', 'yes' if tells else 'no', *raised])} |"


def _raised(outcome: Outcome) -> str:
    return f"`{outcome.error}`" if outcome.error.isidentifier() else outcome.error


def _settings(client: Client) -> str:
    text = client.text(gateway_url="https://gateway.example.com", api_id="acme/llama")
    return f"**{client.title}** ({client.package})\n\n```{_FENCES[client.language]}\n{text}```\n"


def _version(client: Client) -> str:
    """As pinned; what Debian has changes by itself."""
    if client.language == "JavaScript":
        return str(json.loads((HERE / "package.json").read_text())["dependencies"][client.package])
    pins = re.findall(rf'"{re.escape(client.package)}==([^"]+)"', (PROJECT / "pyproject.toml").read_text())
    return pins[0] if pins else ""
