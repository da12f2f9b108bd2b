"""Delays between attempts, listed rather than computed so that anyone can read them."""

RESTART_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)


def restart_delay(attempt: int) -> float:
    """Seconds to wait before restart number `attempt` (the first is 1)."""
    return RESTART_DELAYS_S[min(max(attempt, 1), len(RESTART_DELAYS_S)) - 1]
