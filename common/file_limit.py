"""How many files and sockets this process may have open."""

import resource

# More than any one process needs; some kernels allow a billion, and what is sized by the limit would be sized by that.
MOST = 1 << 17


def raise_file_limit() -> int:
    """Up to what the system allows, MOST at most. The limit that now holds; children start with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return min(max(wanted, soft), MOST)
