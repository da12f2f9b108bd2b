"""Runs client libraries in processes of their own, each with the settings that the Developer Hub shows."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.clients import Client

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
PYTHON = PROJECT / ".venv-clients" / "bin" / "python"
# Node comes with the tests' own packages where the machine has none.
PATH = f"{os.environ.get('PATH', '')}:{PROJECT / '.venv' / 'bin'}"
_BODY = '{"model": "$model", "max_tokens": 12, "stream": %s, "messages": [{"role": "user", "content": "Say hello."}]}'
# How curl asks, by case: what it offers or sends differs, the answer doesn't.
CURL = {
    "plain": "ask -d @-",
    "streamed": "ask --no-buffer -d @-",
    "http2": "ask --http2 -d @-",
    "http1.0": "ask --http1.0 -d @-",
    "gzip": 'gzip > "$TMPDIR/body.gz"; ask --compressed -H "Content-Encoding: gzip" --data-binary @"$TMPDIR/body.gz"',
}


@dataclass(frozen=True)
class Case:
    """`key` opens what `model` names, or doesn't."""

    name: str
    url: str
    model: str
    key: str


@dataclass
class Outcome:
    """`error` is what the library raised, empty where it raised nothing; `tokens` what it told, None where it tells none."""

    case: str
    text: str = ""
    pieces: int = 0
    tokens: int | None = None
    error: str = ""
    status: int | None = None
    message: str = ""


def missing(client: Client) -> str:
    """What isn't installed for it; empty where all is."""
    if client.language == "JavaScript" and not (HERE / "node_modules").is_dir():
        return "its packages are not installed (make test does)"
    if client.language == "Python" and not PYTHON.exists():
        return "its packages are not installed (make test does)"
    program = {"Java": "javac", "JavaScript": "node", "Shell": "curl"}.get(client.language)
    return f"no {program} on this machine" if program and shutil.which(program, path=PATH) is None else ""


def run(client: Client, cases: list[Case], folder: Path) -> dict[str, Outcome]:
    if client.language == "Shell":
        return {case.name: _curl(client, case, folder) for case in cases}
    if client.language == "Java":
        return {case.name: _java(client, case, folder) for case in cases}
    asked = [(case.name, client.text(gateway_url=case.url, api_id=case.model), case.key) for case in cases]
    program = ["node", str(HERE / "programs/run.mjs")]
    if client.language == "Python":
        # The newest release of the one that everybody has is among the tests' own packages.
        python = sys.executable if client.id == "openai-python" else str(PYTHON)
        program = [python, str(HERE / "programs/run.py")]
    # It would ask the internet for prices of models.
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    # Some libraries print advice of their own.
    lines = [
        line
        for line in _output([*program, client.id], json.dumps(asked), environment).splitlines()
        if line.startswith('{"case"')
    ]
    return {found["case"]: Outcome(**found) for found in map(json.loads, lines)}


def _curl(client: Client, case: Case, folder: Path) -> Outcome:
    how = CURL.get(case.name, CURL["streamed" if case.name == "cut" else "plain"])
    script = client.text(gateway_url=case.url, api_id=case.model) + (
        f"printf '%s' \"{(_BODY % _streams(case)).replace(chr(34), chr(92) + chr(34))}\" | {{ {how} -w '\\n%{{http_code}} %{{http_version}}'; }}\n"
        'echo " $?"\n'
    )
    found = _output(["bash", "-c", script], "", {"API_KEY": case.key, "TMPDIR": str(folder)})
    body, _, last = found.rstrip("\n").rpartition("\n")
    status, _, ended = last.split(" ")
    error = f"exit code {ended}" if ended != "0" else ""
    return _read(case, body, int(status), error)


def _java(client: Client, case: Case, folder: Path) -> Outcome:
    settings = client.text(gateway_url=case.url, api_id=case.model)
    program = (HERE / "programs/Client.java").read_text().replace("// settings", settings)
    (folder / "Client.java").write_text(program)
    try:
        found = _output(["java", str(folder / "Client.java"), _streams(case)], "", {"API_KEY": case.key})
    except subprocess.CalledProcessError as error:
        raised = re.search(r"([A-Za-z]+Exception)", error.stderr)
        return Outcome(case.name, error=raised[1] if raised else "", message=error.stdout + error.stderr)
    status, _, body = found.partition("\n")
    return _read(case, body, int(status), "")


def _streams(case: Case) -> str:
    return "true" if case.name in ("streamed", "cut") else "false"


def _read(case: Case, body: str, status: int, error: str) -> Outcome:
    """Of clients that only bring bytes."""
    found = Outcome(
        case.name, error=error or (f"status {status}" if status != 200 else ""), status=status, message=body
    )
    if body.startswith("data:"):
        events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
        choices = [choice for event in events for choice in event.get("choices", ())]
        pieces = [choice["delta"].get("content") for choice in choices]
        found.text, found.pieces = "".join(filter(None, pieces)), len(list(filter(None, pieces)))
    elif status == 200:
        answer: dict[str, Any] = json.loads(body)
        found.text, found.tokens = answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]
    return found


def _output(command: list[str], text: str, environment: dict[str, str]) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        timeout=240,
        env=clean | {"PATH": PATH} | environment,
        check=False,
    )
    if done.returncode:
        raise subprocess.CalledProcessError(
            done.returncode, shlex.join(command)[:300], done.stdout, done.stderr[-3000:]
        )
    return done.stdout
