import litellm
from run import MOST, QUESTION


def ask(given):
    answer = litellm.completion(**given["settings"], messages=QUESTION, max_tokens=MOST)
    return answer.choices[0].message.content, answer.usage.completion_tokens


def stream(given, pieces):
    tokens = None
    stream = litellm.completion(
        **given["settings"], messages=QUESTION, max_tokens=MOST, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        tokens = chunk.usage.completion_tokens if getattr(chunk, "usage", None) else tokens
    return tokens
