"""How many tokens a request used: as engines tell it, in whatever words, or estimated."""

from dataclasses import dataclass
from typing import Any

from gateway.bodies.json_fields import PlainUsage

# A rough figure where nothing was told: four bytes a token.
BYTES_PER_TOKEN = 4
# The names at the top of an answer, or of an event, below which tokens are told.
NAMES = (
    "usage", "meta", "meta_info", "timings", "tokens_evaluated", "tokens_predicted", "prompt_eval_count", "eval_count",
)  # fmt: skip
# What is read below those names: nothing else of a stream's events is kept, however many there are.
KEYS = frozenset({
    "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens", "cached_tokens",
    "prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "output_tokens_details",
    "input_token_details", "output_token_details", "prompt_token_details", "completion_token_details",
    "prompt_cache_hit_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
    "prompt_n", "cache_n", "predicted_n", "billed_units", "tokens",
})  # fmt: skip
_MOST = 2**31
# What a record holds: an answer may add up many that are told.
_MOST_KEPT = 2**32 - 1


@dataclass(slots=True)
class Tokens:
    """`cached` of `input` were known to the engine before; `reasoning` of `output` were thought, not said; `audio` of both.
    `units` are a rerank's search units. `estimated` is set when the figures were counted here instead of told.
    """

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    audio: int = 0
    units: int = 0
    estimated: bool = False

    def counts(self) -> tuple[int, int, int, int, int, int]:
        """As records hold them, in the order of TOKENS."""
        kinds = self.input, self.output, self.cached, self.reasoning, self.audio, self.units
        return kinds if max(kinds) <= _MOST_KEPT else tuple(min(kind, _MOST_KEPT) for kind in kinds)  # type: ignore[return-value]

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            self.input + other.input,
            self.output + other.output,
            self.cached + other.cached,
            self.reasoning + other.reasoning,
            self.audio + other.audio,
            self.units + other.units,
            self.estimated or other.estimated,
        )


def plainly_told(usage: PlainUsage) -> Tokens | None:
    """What the usual words say; None where there are others beside them."""
    prompt, output = usage.prompt_tokens, usage.completion_tokens
    if not (0 <= prompt < _MOST and 0 <= output < _MOST) or usage.prompt_cache_hit_tokens is not None:
        return None
    if usage.cache_read_input_tokens is not None or usage.cache_creation_input_tokens is not None:
        return None
    before, made = usage.prompt_tokens_details, usage.completion_tokens_details
    if before is None and made is None:
        return Tokens(prompt, output)
    counts = (
        before.cached_tokens if before else 0, made.reasoning_tokens if made else 0,
        before.audio_tokens if before else 0, made.audio_tokens if made else 0,
    )  # fmt: skip
    cached, reasoning, heard, said = (value if value and 0 < value < _MOST else 0 for value in counts)
    return Tokens(prompt, output, min(cached, prompt), min(reasoning, output), heard + said)


def told(found: dict[str, Any]) -> Tokens | None:
    """What the values of NAMES say; None where they say nothing."""
    usage = found.get("usage")
    if isinstance(usage, dict) and (tokens := _of_usage(usage)) is not None:
        return tokens
    for name, read in _NATIVE.items():
        value = found.get(name)
        if value is not None and (tokens := read(found, value)) is not None:
            return tokens
    return None


def _of_usage(usage: dict[str, Any]) -> Tokens | None:
    """Chats count prompt and completion, responses and messages input and output, embeddings and rerank a total."""
    given = _count(usage, "prompt_tokens"), _count(usage, "input_tokens"), _count(usage, "total_tokens")
    made = _count(usage, "completion_tokens"), _count(usage, "output_tokens")
    if given == (None, None, None) and made == (None, None):
        return None
    output = made[0] or made[1] or 0
    prompt = given[0] or given[1] or 0
    if not prompt and not output:
        prompt = given[2] or 0
    cached = _detail(usage, "cached_tokens", "prompt", "input") or _count(usage, "prompt_cache_hit_tokens") or 0
    if "cache_read_input_tokens" in usage or "cache_creation_input_tokens" in usage:
        # Messages count what was read from a cache, or written to one, beside the rest of the input.
        cached = _count(usage, "cache_read_input_tokens") or 0
        prompt += cached + (_count(usage, "cache_creation_input_tokens") or 0)
    return Tokens(
        prompt,
        output,
        min(cached, prompt),
        min(_detail(usage, "reasoning_tokens", "completion", "output"), output),
        _detail(usage, "audio_tokens", "prompt", "input") + _detail(usage, "audio_tokens", "completion", "output"),
    )


def _of_meta(found: dict[str, Any], meta: Any) -> Tokens | None:
    """Cohere's rerank."""
    billed = meta.get("billed_units") if isinstance(meta, dict) else None
    counted = (meta.get("tokens") if isinstance(meta, dict) else None) or billed
    if not isinstance(billed, dict) and not isinstance(counted, dict):
        return None
    counted, billed = (value if isinstance(value, dict) else {} for value in (counted, billed))
    units = _count(billed, "search_units")
    given, made = _count(counted, "input_tokens"), _count(counted, "output_tokens")
    return None if units is given is made is None else Tokens(given or 0, made or 0, units=units or 0)


def _of_meta_info(found: dict[str, Any], info: Any) -> Tokens | None:
    """SGLang's own path."""
    if not isinstance(info, dict) or _count(info, "prompt_tokens") is None:
        return None
    prompt = _count(info, "prompt_tokens") or 0
    return Tokens(prompt, _count(info, "completion_tokens") or 0, min(_count(info, "cached_tokens") or 0, prompt))


def _of_timings(found: dict[str, Any], timings: Any) -> Tokens | None:
    """llama.cpp, with whatever answer: `prompt_n` are those that it had to compute."""
    if not isinstance(timings, dict) or _count(timings, "predicted_n") is None:
        return None
    cached = _count(timings, "cache_n") or 0
    return Tokens((_count(timings, "prompt_n") or 0) + cached, _count(timings, "predicted_n") or 0, cached)


def _of_evaluated(found: dict[str, Any], evaluated: Any) -> Tokens | None:
    """llama.cpp's own path."""
    prompt, output = _count(found, "tokens_evaluated"), _count(found, "tokens_predicted")
    return None if prompt is output is None else Tokens(prompt or 0, output or 0)


def _of_eval_count(found: dict[str, Any], count: Any) -> Tokens | None:
    """Ollama's own paths."""
    prompt, output = _count(found, "prompt_eval_count"), _count(found, "eval_count")
    return None if prompt is output is None else Tokens(prompt or 0, output or 0)


_NATIVE = {
    "meta_info": _of_meta_info, "timings": _of_timings, "tokens_evaluated": _of_evaluated,
    "tokens_predicted": _of_evaluated, "prompt_eval_count": _of_eval_count, "eval_count": _of_eval_count, "meta": _of_meta,
}  # fmt: skip


def _detail(usage: dict[str, Any], name: str, *kinds: str) -> int:
    for kind in kinds:
        for spelling in ("tokens_details", "token_details"):
            details = usage.get(f"{kind}_{spelling}")
            if isinstance(details, dict) and (value := _count(details, name)) is not None:
                return value
    return 0


def _count(values: dict[str, Any], name: str) -> int | None:
    value = values.get(name)
    return value if type(value) is int and 0 <= value < _MOST else None
