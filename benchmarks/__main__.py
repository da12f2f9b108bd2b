"""`make bench`, or `python -m benchmarks NAME …` for some of them."""

import argparse
import os
import platform
from importlib import import_module

SUITES = ("async_queue", "gateway_cost", "keys", "limits", "live_page", "metrics", "sweep")
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
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}\n", flush=True)
    for name in wanted:
        for row in import_module(f"benchmarks.{name}").run():
            print(row, flush=True)


if __name__ == "__main__":
    main()
