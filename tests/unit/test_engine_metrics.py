"""Engines' own pages: each engine's names, and pages that are odd."""

import pytest

from runtimes.engines.metrics import EngineSample, parse
from runtimes.simulator.metrics import EngineMetrics

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1000.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 400.0
vllm:time_to_first_token_seconds_bucket{le="0.001",model_name="m"} 0.0
vllm:request_success_total{finished_reason="stop",model_name="m"} 12.0
"""


@pytest.mark.parametrize(
    ("page", "sample"),
    [
        (VLLM, EngineSample(5, 7, 0.5, 400, 1000)),
        ('vllm:gpu_cache_usage_perc{model_name="m"} 0.4\n', EngineSample(kv_cache_use=0.4)),
        ("num_requests_running 2\ngpu_cache_usage_perc 0.1\n", EngineSample(running=2, kv_cache_use=0.1)),
        (
            'sglang:num_running_reqs{model_name="m"} 4\nsglang:num_queue_reqs{model_name="m"} 1\nsglang:token_usage{model_name="m"} 0.2\n'
            'sglang:prompt_tokens_total{model_name="m"} 90\nsglang:cached_tokens_total{model_name="m"} 30\n',
            EngineSample(4, 1, 0.2, 30, 90, 90),
        ),
        ("llamacpp:requests_processing 1\nllamacpp:requests_deferred 2\n", EngineSample(running=1, waiting=2)),
        ("te_queue_size 6\n", EngineSample(waiting=6)),
        ('vllm:num_requests_running{model_name="a } b"} 3 1763640000000\n', EngineSample(running=3)),
        ("vllm:num_requests_running NaN\nvllm:num_requests_waiting\nvllm:kv_cache_usage_perc{} -1\n", EngineSample()),
        ("<html>not found</html>", EngineSample()),
        ("", EngineSample()),
    ],
)  # fmt: skip
def test_every_engines_names_mean_the_same(page, sample):
    assert parse(page) == sample


def test_the_simulator_tells_what_an_engine_tells():
    metrics = EngineMetrics("demo")
    with metrics.running(), metrics.waiting():
        assert parse(metrics.render().decode()) == EngineSample(running=1, waiting=1, input_tokens=0, output_tokens=0)
