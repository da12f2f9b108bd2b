"""How a request may end, who may have sent it, which of its times and tokens are kept: what gateways write and pages read."""

OUTCOMES = ("completed", "failed", "cancelled", "rejected", "expired")
COMPLETED, FAILED, CANCELLED, REJECTED, EXPIRED = range(len(OUTCOMES))
SOURCES = ("api", "console")
API, CONSOLE = range(len(SOURCES))
LATENCIES = ("end_to_end", "inference", "queue", "first_token")
# Cached ones are part of the input, reasoning of the output, audio of both; a search unit is what a rerank is billed by.
TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "audio_tokens", "search_units")
# Why the tokens of a request were counted by the gateway: the engine told none, its client had left, or it broke off.
ESTIMATES = ("", "untold", "cancelled", "failed")
NOT_ESTIMATED, UNTOLD, LEFT, BROKEN = range(len(ESTIMATES))
# The ledger's sums of estimated tokens: all, and by reason.
ESTIMATED = ("estimated_tokens", *(f"estimated_{reason}" for reason in ESTIMATES[1:]))
