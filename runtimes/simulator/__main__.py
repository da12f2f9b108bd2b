"""Starts the simulator: `python -m runtimes.simulator --port 8000 --model demo`."""

import argparse
import sys

import uvicorn

from runtimes.simulator.faults import Faults
from runtimes.simulator.server import Behaviour, SimulatorApp


def main() -> None:
    parser = argparse.ArgumentParser(description="An OpenAI-compatible server that makes its answers up.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--context-length", type=int, default=4096)
    parser.add_argument("--time-to-first-token-ms", type=float, default=200)
    parser.add_argument("--inter-token-ms", type=float, default=30)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--load-time-s", type=float, default=0)
    parser.add_argument("--failure-rate", type=float, default=0)
    parser.add_argument("--crash-after-s", type=float, default=0)
    parser.add_argument("--memory-growth-mb-per-minute", type=float, default=0)
    parser.add_argument("--cpu-burn-cores", type=float, default=0)
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    behaviour = Behaviour(
        model=options.model,
        context_length=options.context_length,
        time_to_first_token_s=options.time_to_first_token_ms / 1000,
        inter_token_s=options.inter_token_ms / 1000,
        concurrency=options.concurrency,
        load_time_s=options.load_time_s,
        failure_rate=options.failure_rate,
    )
    faults = Faults(
        crash_after_s=options.crash_after_s,
        memory_growth_mb_per_minute=options.memory_growth_mb_per_minute,
        cpu_burn_cores=options.cpu_burn_cores,
    )
    app = SimulatorApp(behaviour, faults)
    uvicorn.run(
        app, host=options.host, port=options.port, log_level="warning", lifespan="on", timeout_graceful_shutdown=10
    )


main()
