from run import MOST, QUESTION, without_retries


def ask(given):
    answer = without_retries(given).chat.completions.create(model=given["model"], messages=QUESTION, max_tokens=MOST)
    return answer.choices[0].message.content, answer.usage.completion_tokens


def stream(given, pieces):
    tokens = None
    stream = without_retries(given).chat.completions.create(
        model=given["model"], messages=QUESTION, max_tokens=MOST, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    return tokens
