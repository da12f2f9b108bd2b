"""Runs the cases of one client library of Python's: each settings text as it is shown to people, then a question.

Arguments: the client's id. Cases come on the standard input as a list of [name, settings, key]; each one's outcome goes to
the standard output as one line of JSON, with the exception's type, status and message where it raised one.
"""

import importlib
import json
import os
import sys
from typing import Any

QUESTION = [{"role": "user", "content": "Say hello."}]
MOST = 12


def without_retries(given: dict[str, Any]) -> Any:
    """The client that the settings make, but for its patience: it would wait for as long as a refusal says."""
    return given["client"].with_options(max_retries=0)


def tried(program: Any, name: str, settings: str, key: str) -> dict[str, Any]:
    os.environ["API_KEY"] = key
    found: dict[str, Any] = {"case": name}
    pieces: list[str] = []
    try:
        names: dict[str, Any] = {}
        exec(settings, names)
        if name in ("streamed", "cut"):
            tokens = program.stream(names, pieces)
        else:
            text, tokens = program.ask(names)
            pieces.append(text)
        found["tokens"] = tokens
    except Exception as error:
        response = getattr(error, "response", None)
        status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
        found |= {"error": type(error).__name__, "status": status, "message": str(error)[:500]}
    return found | {"text": "".join(pieces), "pieces": len([piece for piece in pieces if piece])}


def main() -> None:
    sys.path.insert(0, os.path.dirname(__file__))
    program = importlib.import_module(sys.argv[1].replace("-", "_") + "_client")
    for name, settings, key in json.load(sys.stdin):
        print(json.dumps(tried(program, name, settings, key)), flush=True)


if __name__ == "__main__":
    main()
