"""TensorRT-LLM behind ``trtllm-serve`` (nvidia.github.io/TensorRT-LLM, "trtllm-serve").

``/metrics`` is JSON of the latest iterations; Prometheus' text is at another path. Some versions of Dynamo write
``trtllm:`` in place of ``trtllm_``. ``/v1/models`` tells no window.
"""

from router.engines.engine import Engine


def _both(name: str) -> tuple[str, ...]:
    return (f"trtllm_{name}", f"trtllm:{name}")


ENGINE = Engine(
    base_url="http://127.0.0.1:8000/v1",
    health="/health",
    metrics="/prometheus/metrics",
    names={
        "waiting": _both("num_requests_waiting"),
        "running": _both("num_requests_running"),
        "kv_use": _both("kv_cache_utilization"),
        "prefix_hit_rate": _both("kv_cache_hit_rate"),
        "drafted": _both("spec_decode_num_draft_tokens"),
        "accepted": _both("spec_decode_num_accepted_tokens"),
        "ttft_seconds": _both("time_to_first_token_seconds_sum"),
        "ttft_count": _both("time_to_first_token_seconds_count"),
        "generated": _both("generation_tokens"),
        "prefilled": _both("prompt_tokens"),
    },
    flags={"metrics": "return_perf_metrics: true in --extra_llm_api_options"},
    context_errors=(
        "prompt length (3000) should not exceed max_num_tokens (2048)",
        "The sum of prompt length (5000.0) and query length (1.0) should not exceed max_num_tokens (4096)",
    ),
)
