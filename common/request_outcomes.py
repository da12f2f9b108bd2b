"""How a request may end, who may have sent it, and which of its times are kept: what gateways write and pages read."""

OUTCOMES = ("completed", "failed", "cancelled", "rejected", "expired")
COMPLETED, FAILED, CANCELLED, REJECTED, EXPIRED = range(len(OUTCOMES))
SOURCES = ("api", "console")
API, CONSOLE = range(len(SOURCES))
LATENCIES = ("end_to_end", "inference", "queue", "first_token")
