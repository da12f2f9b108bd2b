"""Where limits are counted in Valkey: one sorted set per deployment, a member for each bucket.

Its score is the moment at which the bucket will be full again, in microseconds of Valkey's clock.
"""

MINUTE_US = 60_000_000


def key_of(deployment_id: int) -> str:
    return f"slipway:limits:{deployment_id}"


def member_of(level: str, subject: int, unit: str) -> bytes:
    return f"{level}:{subject}:{unit}".encode()


def read_member(member: bytes) -> tuple[str, int, str]:
    """(level, subject, unit), as `member_of` was given them."""
    level, subject, unit = member.decode().split(":")
    return level, int(subject), unit
