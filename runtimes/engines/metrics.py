"""What engines tell of themselves in Prometheus' text format, under whatever names. Pure: a page in, a sample out."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineSample:
    """Requests running and waiting now, the share of the KV cache in use (0 to 1), tokens looked up in the prefix cache
    and found there, and those of prompts and answers, since the engine's start. None where the engine doesn't tell."""

    running: float | None = None
    waiting: float | None = None
    kv_cache_use: float | None = None
    prefix_hits: float | None = None
    prefix_queries: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None

    @property
    def is_empty(self) -> bool:
        return self == EngineSample()


# Names without their prefix (vllm:, sglang:, llamacpp:, te_), by what they mean: NIM has vLLM's without any.
_NAMES = {
    "num_requests_running": "running", "num_running_reqs": "running", "requests_processing": "running",
    "num_requests_waiting": "waiting", "num_queue_reqs": "waiting", "requests_deferred": "waiting", "queue_size": "waiting",
    "kv_cache_usage_perc": "kv_cache_use", "gpu_cache_usage_perc": "kv_cache_use", "token_usage": "kv_cache_use",
    "kv_cache_usage_ratio": "kv_cache_use",
    "prefix_cache_hits_total": "prefix_hits", "gpu_prefix_cache_hits_total": "prefix_hits", "cached_tokens_total": "prefix_hits",
    "prefix_cache_queries_total": "prefix_queries", "gpu_prefix_cache_queries_total": "prefix_queries",
    "prompt_tokens_total": "input_tokens", "generation_tokens_total": "output_tokens", "tokens_predicted_total": "output_tokens",
}  # fmt: skip
_SHARES = ("kv_cache_use",)
# What is more is no count: no column holds it, and no double every number up to it.
_MOST = float(1 << 53)
# SGLang counts what it found in its cache and all prompt tokens; what it looked up are the latter, too.
_LOOKED_UP_BY_PREFIX = {"sglang": "prompt_tokens_total"}
_FIRST_BYTES = frozenset(name[:1] for name in ("vllm:", "sglang:", "llamacpp:", "te_", *_NAMES))


def parse(page: str) -> EngineSample:
    """The sample in a page. Several series of one name (one per model or rank) are added up, shares averaged."""
    found: dict[str, list[float]] = {}
    for line in page.split("\n"):
        # A page has hundreds of lines, nearly all of them histograms: only those that matter are taken apart.
        if line[:1] not in _FIRST_BYTES or "_bucket{" in line:
            continue
        name = line.partition("{")[0] if "{" in line else line.partition(" ")[0]
        prefix, _, plain = name.rpartition(":")
        plain = plain.removeprefix("te_")
        field = _NAMES.get(plain)
        value = _value(line) if field else None
        if field and value is not None:
            found.setdefault(field, []).append(value)
            if _LOOKED_UP_BY_PREFIX.get(prefix) == plain:
                found.setdefault("prefix_queries", []).append(value)
    sums = {field: sum(values) / (len(values) if field in _SHARES else 1) for field, values in found.items()}
    return EngineSample(**{field: value for field, value in sums.items() if value < _MOST})


def _value(line: str) -> float | None:
    text = line.rpartition("}")[2] if "}" in line else line.partition(" ")[2]
    try:
        value = float(text.split()[0])
    except (ValueError, IndexError):
        return None
    # Engines print NaN where they have not measured yet.
    return value if 0 <= value < float("inf") else None
