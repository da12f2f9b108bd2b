from run import MOST, QUESTION


def ask(given):
    answer = given["client"].chat_completion(QUESTION, model=given["model"], max_tokens=MOST)
    return answer.choices[0].message.content, answer.usage.completion_tokens


def stream(given, pieces):
    tokens = None
    stream = given["client"].chat_completion(
        QUESTION, model=given["model"], max_tokens=MOST, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    return tokens
