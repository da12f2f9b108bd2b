"""Client libraries that are tried against the gateway, with the settings by which they reach a deployment.

The Developer Hub shows these settings, and the tests run them as they stand here.
"""

from dataclasses import dataclass

OPENAI, ANTHROPIC = "openai", "anthropic"


@dataclass(frozen=True)
class Client:
    """`package` as its registry calls it. `settings` in `language`, with {url} for the gateway and {model} for the deployment;
    the key is in the environment as API_KEY. `api`: which one it speaks."""

    id: str
    title: str
    language: str
    package: str
    settings: str
    api: str = OPENAI

    def text(self, *, gateway_url: str, api_id: str) -> str:
        return self.settings.replace("{url}", gateway_url).replace("{model}", api_id)


CLIENTS = (
    Client(
        "openai-python", "OpenAI", "Python", "openai",
        """\
import os

from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key=os.environ["API_KEY"])
model = "{model}"
""",
    ),
    Client(
        "openai-node", "OpenAI", "JavaScript", "openai",
        """\
import OpenAI from "openai";

const client = new OpenAI({ baseURL: "{url}/v1", apiKey: process.env.API_KEY });
const model = "{model}";
""",
    ),
    Client(
        "anthropic", "Anthropic", "Python", "anthropic",
        """\
import os

from anthropic import Anthropic

client = Anthropic(base_url="{url}", api_key=os.environ["API_KEY"])
model = "{model}"
""",
        ANTHROPIC,
    ),
    Client(
        "langchain", "LangChain", "Python", "langchain-openai",
        """\
import os

from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    base_url="{url}/v1",
    api_key=os.environ["API_KEY"],
    model="{model}",
    stream_usage=True,
)
""",
    ),
    Client(
        "llama-index", "LlamaIndex", "Python", "llama-index-llms-openai-like",
        """\
import os

from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(
    api_base="{url}/v1",
    api_key=os.environ["API_KEY"],
    model="{model}",
    is_chat_model=True,
)
""",
    ),
    Client(
        "litellm", "LiteLLM", "Python", "litellm",
        """\
import os

settings = {
    "api_base": "{url}/v1",
    "api_key": os.environ["API_KEY"],
    "model": "openai/{model}",
}
""",
    ),
    Client(
        "huggingface", "Hugging Face Hub", "Python", "huggingface_hub",
        """\
import os

from huggingface_hub import InferenceClient

client = InferenceClient(base_url="{url}/v1", api_key=os.environ["API_KEY"])
model = "{model}"
""",
    ),
    Client(
        "ai-sdk", "AI SDK", "JavaScript", "@ai-sdk/openai-compatible",
        """\
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

const slipway = createOpenAICompatible({
  name: "slipway", baseURL: "{url}/v1", apiKey: process.env.API_KEY, includeUsage: true,
});
const model = slipway("{model}");
""",
    ),
    Client(
        "java", "java.net.http", "Java", "JDK",
        """\
HttpRequest.Builder asking = HttpRequest.newBuilder(URI.create("{url}/v1/chat/completions"))
    .header("Authorization", "Bearer " + System.getenv("API_KEY"))
    .header("Content-Type", "application/json");
String model = "{model}";
""",
    ),
    Client(
        "curl", "curl", "Shell", "curl",
        """\
url={url}/v1/chat/completions
model={model}
ask() { curl --silent --show-error "$@" "$url" -H "Authorization: Bearer $API_KEY" -H "Content-Type: application/json"; }
""",
    ),
)  # fmt: skip
