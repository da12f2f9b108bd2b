from llama_index.core.llms import ChatMessage
from run import MOST

QUESTION = [ChatMessage(role="user", content="Say hello.")]


def without_retries(given):
    """It would wait for as long as a refusal says."""
    given["llm"].max_retries = 0
    return given["llm"]


def ask(given):
    answer = without_retries(given).chat(QUESTION, max_tokens=MOST)
    return answer.message.content, answer.raw.usage.completion_tokens


def stream(given, pieces):
    for part in without_retries(given).stream_chat(QUESTION, max_tokens=MOST):
        pieces.append(part.delta or "")
