from run import MOST


def ask(given):
    answer = given["model"].bind(max_tokens=MOST).invoke("Say hello.")
    return answer.content, answer.usage_metadata["output_tokens"]


def stream(given, pieces):
    tokens = None
    for chunk in given["model"].bind(max_tokens=MOST).stream("Say hello."):
        pieces.append(chunk.content)
        tokens = chunk.usage_metadata["output_tokens"] if chunk.usage_metadata else tokens
    return tokens
