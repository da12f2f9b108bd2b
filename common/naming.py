"""Names that become part of an address: rule, suggestion, reserved words."""

import re
import unicodedata

MAX_LENGTH = 63
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")

# A path prefix of this name would hide the gateway's own routes.
RESERVED_ENDPOINT_NAMES = frozenset(
    {"v1", "metrics", "healthz", "readyz", "async", "api", "static", "slipway", "openai", "v2"}
)
# The console's page for new deployments would hide those of such an organization.
RESERVED_ORGANIZATION_NAMES = frozenset({"new"})


def suggest_name(text: str) -> str:
    """Turn any text into a valid name, or an empty string when nothing of it can be kept."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")
    return words[:MAX_LENGTH].strip("-")


def name_error(name: str) -> str | None:
    """Say why `name` can't be part of an address, with a name that can; None when it can."""
    if len(name) <= MAX_LENGTH and _NAME.fullmatch(name):
        return None
    if len(name) > MAX_LENGTH:
        problem = f"A name has at most {MAX_LENGTH} characters; this one has {len(name)}."
    else:
        problem = (
            "A name is part of an address: lower-case letters, digits and hyphens, a letter or digit at both ends."
        )
    suggestion = suggest_name(name)
    return f"{problem} Try “{suggestion}”." if suggestion else problem
