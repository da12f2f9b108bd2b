from run import MOST, QUESTION, without_retries


def ask(given):
    answer = without_retries(given).messages.create(model=given["model"], messages=QUESTION, max_tokens=MOST)
    return answer.content[0].text, answer.usage.output_tokens


def stream(given, pieces):
    tokens = None
    with without_retries(given).messages.stream(model=given["model"], messages=QUESTION, max_tokens=MOST) as stream:
        for event in stream:
            if event.type == "text":
                pieces.append(event.text)
            elif event.type == "message_delta":
                tokens = event.usage.output_tokens
    return tokens
