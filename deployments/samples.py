"""Code that calls a deployment, to be copied: cURL, Python and JavaScript. Pure text, made of checked names."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runtimes.engines.base import Example

CHAT_PATH = "/v1/chat/completions"
EXPORT = "export API_KEY="
_QUESTION = [{"role": "user", "content": "Say hello in one sentence."}]


@dataclass(frozen=True)
class Sample:
    """`id` is a word for the page's tabs."""

    id: str
    title: str
    text: str


def speaks_chat(examples: Sequence[Example]) -> bool:
    return any(example.path == CHAT_PATH for example in examples)


def samples(examples: Sequence[Example], *, gateway_url: str, api_id: str, address: str) -> list[Sample]:
    """For a deployment that speaks chat: chats. For another one: its engine's first example, by its own address."""
    if speaks_chat(examples):
        body = {"model": api_id, "messages": _QUESTION}
        return [
            Sample("curl", "cURL", _curl("POST", f"{gateway_url}{CHAT_PATH}", body)),
            Sample("python", "Python", _python_chat(gateway_url, api_id)),
            Sample(
                "javascript",
                "JavaScript",
                _javascript("POST", f"{gateway_url}{CHAT_PATH}", body, "choices[0].message.content"),
            ),
        ]
    first = examples[0] if examples else Example("Request", "GET", "/")
    url = f"{address.rstrip('/')}{first.path}"
    return [
        Sample("curl", "cURL", _curl(first.method, url, first.body)),
        Sample("python", "Python", _python(first.method, url, first.body)),
        Sample("javascript", "JavaScript", _javascript(first.method, url, first.body, "")),
    ]


def _curl(method: str, url: str, body: Any) -> str:
    lines = [f"curl {shlex.quote(url)}", '  -H "Authorization: Bearer $API_KEY"']
    if method not in ("GET", "POST") or (method == "POST" and body is None):
        lines.insert(1, f"  -X {method}")
    if body is not None:
        lines += ['  -H "Content-Type: application/json"', f"  -d {shlex.quote(json.dumps(body))}"]
    return f"{EXPORT}\n" + " \\\n".join(lines) + "\n"


def _python_chat(gateway_url: str, api_id: str) -> str:
    return f'''# pip install openai
import os

from openai import OpenAI

client = OpenAI(base_url="{gateway_url}/v1", api_key=os.environ["API_KEY"])
stream = client.chat.completions.create(
    model="{api_id}",
    messages={json.dumps(_QUESTION)},
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
'''


def _python(method: str, url: str, body: Any) -> str:
    sent = f",\n    json={body!r}" if body is not None else ""
    return f'''# pip install httpx
import os

import httpx

answer = httpx.request(
    "{method}",
    {url!r},
    headers={{"Authorization": f"Bearer {{os.environ['API_KEY']}}"}}{sent},
)
answer.raise_for_status()
print(answer.text)
'''


def _javascript(method: str, url: str, body: Any, shown: str) -> str:
    headers = ["Authorization: `Bearer ${process.env.API_KEY}`"]
    lines = [f"  method: {json.dumps(method)},"]
    if body is not None:
        headers.append('"Content-Type": "application/json"')
    lines.append(f"  headers: {{ {', '.join(headers)} }},")
    if body is not None:
        lines.append(f"  body: JSON.stringify({json.dumps(body)}),")
    told = f"(await answer.json()).{shown}" if shown else "await answer.text()"
    inside = "\n".join(lines)
    return (
        f"// Node 18 or newer, as an ES module\nconst answer = await fetch({json.dumps(url)}, {{\n{inside}\n}});\n"
        f"if (!answer.ok) throw new Error(`${{answer.status}}: ${{await answer.text()}}`);\nconsole.log({told});\n"
    )
