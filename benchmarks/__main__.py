"""`make bench`, or `python -m benchmarks NAME …` for some of them."""

import argparse
import os
import platform
import subprocess
import sys
from importlib import import_module

SUITES = ("async_queue", "gateway_cost", "keys", "limits", "live_page", "metrics", "price", "sweep", "witness")
# An hour: only when it is named.
LONG = ("open_page",)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures Slipway beside its peers on this machine.")
    parser.add_argument(
        "suites",
        nargs="*",
        choices=[*SUITES, *LONG, []],
        help=f"of {', '.join(SUITES + LONG)}; all but the last without a name",
    )
    wanted = parser.parse_args().suites or SUITES
    if len(wanted) > 1:
        # Each on a database of its own, as if it were the only one.
        failed = [name for name in wanted if subprocess.run([sys.executable, "-m", "benchmarks", name]).returncode]
        sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}: {wanted[0]}\n", flush=True
    )
    for row in import_module(f"benchmarks.{wanted[0]}").run():
        print(row, flush=True)


if __name__ == "__main__":
    main()
