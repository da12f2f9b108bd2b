"""The simulator's own Prometheus series, under vLLM's names so that the same charts read them."""

from collections.abc import Iterator
from contextlib import contextmanager

TTFT_BUCKETS_S = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
)
E2E_BUCKETS_S = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)


class Histogram:
    def __init__(self, name: str, buckets: tuple[float, ...]) -> None:
        self._name, self._buckets = name, buckets
        self._counts = [0] * len(buckets)
        self._sum, self._count = 0.0, 0

    def observe(self, value: float) -> None:
        self._sum += value
        self._count += 1
        for index, bound in enumerate(self._buckets):
            if value <= bound:
                self._counts[index] += 1

    def render(self, label: str) -> Iterator[str]:
        yield f"# TYPE {self._name} histogram"
        for bound, count in zip(self._buckets, self._counts, strict=True):
            yield f'{self._name}_bucket{{le="{bound}",{label}}} {count}'
        yield f'{self._name}_bucket{{le="+Inf",{label}}} {self._count}'
        yield f"{self._name}_sum{{{label}}} {self._sum}"
        yield f"{self._name}_count{{{label}}} {self._count}"


class EngineMetrics:
    def __init__(self, model: str) -> None:
        escaped = model.replace("\\", "\\\\").replace('"', '\\"')
        self._label = f'model_name="{escaped}"'
        self._running = self._waiting = 0
        self._prompt_tokens = self._generation_tokens = self._success = 0
        self._ttft = Histogram("vllm:time_to_first_token_seconds", TTFT_BUCKETS_S)
        self._e2e = Histogram("vllm:e2e_request_latency_seconds", E2E_BUCKETS_S)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    @contextmanager
    def running(self) -> Iterator[None]:
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def first_token(self, seconds: float) -> None:
        self._ttft.observe(seconds)

    def finished(self, prompt_tokens: int, generated_tokens: int, seconds: float) -> None:
        self._prompt_tokens += prompt_tokens
        self._generation_tokens += generated_tokens
        self._success += 1
        self._e2e.observe(seconds)

    def render(self) -> bytes:
        gauges = {"vllm:num_requests_running": self._running, "vllm:num_requests_waiting": self._waiting}
        counters = {
            "vllm:prompt_tokens_total": self._prompt_tokens,
            "vllm:generation_tokens_total": self._generation_tokens,
        }
        lines = ["# This is a simulator: these figures describe made-up answers."]
        for kind, values in (("gauge", gauges), ("counter", counters)):
            for name, value in values.items():
                lines += [f"# TYPE {name} {kind}", f"{name}{{{self._label}}} {value}"]
        lines += ["# TYPE vllm:request_success_total counter"]
        lines += [f'vllm:request_success_total{{finished_reason="length",{self._label}}} {self._success}']
        lines += [*self._ttft.render(self._label), *self._e2e.render(self._label)]
        return ("\n".join(lines) + "\n").encode()
