"""The paths on which a model is named, in the body, in the query or in the path itself, instead of a deployment's address."""

import re
from urllib.parse import parse_qs, unquote_to_bytes

# As engines have them beside /v1.
_BARE = frozenset({b"/rerank", b"/v2/rerank", b"/score", b"/tokenize", b"/detokenize"})
# Azure's, by deployment and by resource.
_AZURE_DEPLOYMENT = re.compile(
    rb"/openai/deployments/(?P<model>[^?]+?)/(?P<rest>(?:chat/)?completions|embeddings|responses|audio/(?:speech|transcriptions|translations)"
    rb"|images/(?:generations|edits))"
)
_AZURE = re.compile(
    rb"/openai/(?:v1/)?(?P<rest>(?:responses|models|files|batches|realtime|chat/completions|completions|embeddings)(?:/.*)?)"
)
_REALTIME = b"/v1/realtime"


def of(path: bytes) -> tuple[bytes, str | None] | None:
    """(what an instance is asked, the model where the path or its query tells) for a path with a model; None for any other."""
    plain, mark, query = path.partition(b"?")
    if plain.startswith(b"/openai/"):
        if (found := _AZURE_DEPLOYMENT.fullmatch(plain)) is not None:
            return b"/v1/" + found["rest"], _text(unquote_to_bytes(found["model"]))
        if (found := _AZURE.fullmatch(plain)) is None:
            return None
        plain = b"/v1/" + found["rest"]
        path = plain + mark + query
    if plain == _REALTIME:
        asked = parse_qs(query.decode("latin-1"))
        return path, (asked.get("model") or asked.get("deployment") or [""])[0]
    if plain.startswith(b"/v1/") or plain in _BARE:
        return path, None
    return None


def _text(model: bytes) -> str:
    return model.decode("utf-8", "replace")
