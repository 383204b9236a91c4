"""What every engine promises: its page is read under old names and new, and what it does not say is unknown."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import orjson
import pytest

from policies.values import EngineView
from router.engines import ENGINES, exposition
from router.engines.discovery import Discovery, Served, differences, read_models
from router.engines.engine import COUNTERS, FACTORS, GAUGES
from router.engines.view import History, Reading
from router.errors import from_response
from router.stream import whole
from router.usage import look
from tests.contracts import engines_pages as pages
from tests.contracts.test_backends import config

SAID = {
    "vllm": (
        pages.VLLM,
        EngineView(
            waiting=3, running=8, elsewhere=10, kv_use=0.25, kv_tokens=32768, prefix_hit_rate=0.4, draft_acceptance=0.5,
            draft_length=3, first_acceptance=0.7, tokens_per_pass=2.5, ttft_ms=200, prefill_tokens_per_second=1200,
        ),
    ),
    "vllm v0": (pages.VLLM_V0, EngineView(waiting=1, running=2, elsewhere=2, kv_use=0.5, draft_acceptance=0.6)),
    "sglang": (
        pages.SGLANG,
        EngineView(
            waiting=4, running=16, elsewhere=19, kv_use=0.28, kv_tokens=120_000, prefix_hit_rate=0.5,
            draft_acceptance=0.5, tokens_per_pass=2.5, ttft_ms=300, tokens_per_second=1900,
        ),
    ),
    "sglang with underscores": (pages.SGLANG_UNDERSCORE, None),
    "sglang before counters, without a draft": (
        pages.SGLANG_OLD, EngineView(running=3, elsewhere=2, prefix_hit_rate=0.75)
    ),
    "tensorrt-llm": (
        pages.TENSORRT_LLM,
        EngineView(
            waiting=2, running=5, elsewhere=6, kv_use=0.4, kv_tokens=64_000, prefix_hit_rate=0.25,
            draft_acceptance=0.25, draft_length=4, first_acceptance=0.6, tokens_per_pass=2, ttft_ms=250,
            prefill_tokens_per_second=2700,
        ),
    ),
    "tensorrt-llm under dynamo": (pages.DYNAMO, None),
    "tensorrt-llm 1.1": (pages.TENSORRT_LLM_OLD, EngineView(ttft_ms=250)),
    "llamacpp": (
        pages.LLAMACPP,
        EngineView(
            waiting=1, running=2, elsewhere=2, prefix_hit_rate=0.25, draft_acceptance=1 / 3, draft_length=3,
            first_acceptance=30 / 43, tokens_per_pass=2, prefill_tokens_per_second=600,
        ),
    ),
    "llamacpp before speculation": (pages.LLAMACPP_OLD, EngineView(waiting=0, running=1, elsewhere=0)),
    "tgi": (pages.TGI, EngineView(waiting=3, running=5, elsewhere=7)),
}  # fmt: skip


def seen(kind: str, page: str, ours: int = 1) -> EngineView:
    history = History()
    history.add(Reading(0.0, exposition.read(ENGINES[kind], page.encode())))
    return history.view(ours)


@pytest.mark.parametrize("case", SAID)
def test_an_engine_is_understood_in_every_version(case: str) -> None:
    page, expected = SAID[case]
    kind = case.split()[0]
    assert seen(kind, page) == (SAID[kind][1] if expected is None else expected)


@pytest.mark.parametrize("case", SAID)
def test_what_is_absent_is_unknown_and_never_zero(case: str) -> None:
    """Without its own lines a page says nothing at all; without one metric, only what needs it is unknown."""
    page, _ = SAID[case]
    engine = ENGINES[case.split()[0]]
    assert exposition.read(engine, b"# TYPE up gauge\nup 1\n") == {}
    lines = page.splitlines(keepends=True)
    for name in {line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}:
        rest = exposition.read(engine, "".join(line for line in lines if name not in line).encode())
        assert rest.items() <= exposition.read(engine, page.encode()).items()


@pytest.mark.parametrize("case", SAID)
def test_a_page_cut_anywhere_is_refused_or_says_nothing_wrong(case: str) -> None:
    """A cut inside a number would turn 12 into 1: what does not end in a line's end is no page."""
    page, engine = SAID[case][0].encode(), ENGINES[case.split()[0]]
    complete = exposition.read(engine, page)
    for at in range(0, len(page), 7):
        try:
            found = exposition.read(engine, page[:at])
        except exposition.Unreadable:
            continue
        assert at == 0 or page[at - 1 : at] == b"\n"
        assert found.items() <= complete.items()


@pytest.mark.parametrize("body", [b"<html><body>Sign in</body></html>\n", b'{"error": "no"}\n', b"", b"half a li"])
def test_what_is_no_metrics_page_is_refused(body: bytes) -> None:
    with pytest.raises(exposition.Unreadable):
        exposition.read(ENGINES["vllm"], body)


def test_a_broken_line_is_refused() -> None:
    with pytest.raises(exposition.Unreadable, match="cannot be read"):
        exposition.read(ENGINES["vllm"], b'vllm:num_requests_waiting{engine="0 3\n')


def test_replicas_add_up_ranks_do_not_and_shares_are_means() -> None:
    page = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 8
vllm:num_requests_running{engine="1"} 4
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0"} 0.9
vllm:kv_cache_usage_perc{engine="1"} 0.1
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",num_gpu_blocks="100",engine="0"} 1
vllm:cache_config_info{block_size="16",num_gpu_blocks="100",engine="1"} 1
"""
    assert exposition.read(ENGINES["vllm"], page.encode()) == {"running": 12, "kv_use": 0.5, "kv_tokens": 3200}
    ranks = "".join(f'sglang:num_queue_reqs{{tp_rank="{t}",dp_rank="{d}"}} {3 + d}\n' for t in (0, 1) for d in (0, 1))
    assert exposition.read(ENGINES["sglang"], ranks.encode()) == {"waiting": 7}
    places = "".join(f'sglang:cached_tokens_total{{cache_source="{place}"}} 4\n' for place in ("device", "host"))
    assert exposition.read(ENGINES["sglang"], places.encode()) == {"prefix_hits": 8}


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-1"])
def test_a_number_that_is_none_is_unknown(value: str) -> None:
    page = f"vllm:num_requests_waiting {value}\nvllm:num_requests_running 2\n"
    assert exposition.read(ENGINES["vllm"], page.encode()) == {"running": 2}


def test_cache_info_that_is_not_a_number_is_unknown() -> None:
    page = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1\n'
    assert exposition.read(ENGINES["vllm"], page.encode()) == {}


@pytest.mark.parametrize(("kind", "engine"), ENGINES.items())
def test_an_engine_names_only_what_is_read(kind: str, engine: object) -> None:
    assert ENGINES[kind].names.keys() <= GAUGES | COUNTERS | FACTORS
    assert asdict(EngineView()).keys() >= GAUGES
    assert bool(ENGINES[kind].names) == (ENGINES[kind].metrics is not None)


REFUSALS = [(kind, words) for kind, engine in ENGINES.items() for words in engine.context_errors]


@pytest.mark.parametrize(("kind", "words"), REFUSALS)
def test_every_engine_says_context_in_its_own_words(kind: str, words: str) -> None:
    bodies = {
        "tgi": (422, b'{"error": "%s", "error_type": "validation"}'),
        "llamacpp": (400, b'{"error": {"code": 400, "message": "%s", "type": "exceed_context_size_error"}}'),
    }
    status, body = bodies.get(kind, (400, b'{"object": "error", "message": "%s", "code": 400}'))
    assert from_response(status, body % words.encode()).kind == "context"


MODELS = {
    "vllm": (
        b"""{"object": "list", "data": [
            {"id": "qwen", "object": "model", "owned_by": "vllm", "root": "Qwen/Qwen2.5-7B", "max_model_len": 32768},
            {"id": "sql", "object": "model", "root": "/adapters/sql", "parent": "qwen", "max_model_len": null}]}""",
        (Served("qwen", 32768), Served("sql", None, "qwen")),
    ),
    "sglang": (b'{"data": [{"id": "llama", "max_model_len": 131072}]}', (Served("llama", 131072),)),
    "tensorrt-llm": (b'{"object": "list", "data": [{"id": "llama", "object": "model"}]}', (Served("llama"),)),
    "llamacpp": (
        b'{"models": [{"name": "tiny"}], "data": [{"id": "tiny", "meta": {"n_ctx": 2048, "n_ctx_train": 4096}}]}',
        (Served("tiny", 2048),),
    ),
    "ollama": (b'{"object": "list", "data": [{"id": "qwen2.5:7b", "owned_by": "library"}]}', (Served("qwen2.5:7b"),)),
    "openai": (
        b'{"data": [{"id": "a", "context_window": 131072}, {"id": "b", "context_length": 8192}, {"id": "c"}]}',
        (Served("a", 131072), Served("b", 8192), Served("c")),
    ),
    "tgi": (b'{"object": "list", "data": [{"id": "tgi", "owned_by": "hf"}]}', (Served("tgi"),)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_are_discovered(kind: str) -> None:
    body, expected = MODELS[kind]
    assert read_models(ENGINES[kind], body) == expected


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": 3}', b'{"data": [3, {"id": 4}]}', b"<html>"])
def test_nothing_is_discovered_where_nothing_is_listed(body: bytes) -> None:
    assert read_models(ENGINES["vllm"], body) == ()


def test_a_policy_that_says_otherwise_than_its_server_is_told() -> None:
    backend = config("vllm", "http://127.0.0.1:1/v1")
    assert list(differences(backend, ())) == []
    assert list(differences(backend, (Served("tiny", 400),))) == []
    [missing] = differences(backend, (Served("other", 400),))
    assert "'tiny'" in missing
    assert "other" in missing
    [smaller] = differences(backend, (Served("tiny", 128),))
    assert "400 tokens, the server has 128" in smaller


def looked(body: bytes, **stated: object) -> Discovery:
    discovery = Discovery(config("vllm", "http://127.0.0.1:1/v1").model_copy(update=stated), ENGINES["vllm"])

    async def fetch(path: str, largest: int) -> bytes:
        return body

    asyncio.run(discovery.look(fetch))
    return discovery


def test_a_window_is_taken_from_the_server_where_the_policy_states_none() -> None:
    """What the policy states wins; an adapter has its base's window; what nobody tells stays unknown."""
    body, _ = MODELS["vllm"]
    assert looked(body, model="qwen", context_window=None).window == 32768
    assert looked(body, model="sql", context_window=None).window == 32768
    assert looked(body, model="qwen", context_window=16384).window is None
    assert looked(body, model="gone", context_window=None).window is None
    assert looked(b'{"data": [{"id": "qwen"}]}', model="qwen", context_window=None).window is None
    assert looked(b'{"data": [{"id": "a", "parent": "b"}]}', model="a", context_window=None).window is None
    assert looked(body, model="qwen", context_window=None).differences == ()
    assert len(looked(body, model="sql", context_window=65536).differences) == 1
    assert looked(body).adapters == ("sql",)


STREAM_ENDS = {
    "vllm, asked for": (
        b'{"id":"c","object":"chat.completion.chunk","model":"q","choices":[],"usage":{"prompt_tokens":20,'
        b'"total_tokens":30,"completion_tokens":10,"prompt_tokens_details":{"cached_tokens":16}}}',
        16,
    ),
    "vllm without --enable-prompt-tokens-details": (
        b'{"choices":[],"usage":{"prompt_tokens":20,"total_tokens":30,"completion_tokens":10,'
        b'"prompt_tokens_details":null}}',
        0,
    ),
    "sglang with --enable-cache-report": (
        b'{"choices":[],"usage":{"prompt_tokens":20,"total_tokens":30,"completion_tokens":10,"reasoning_tokens":0,'
        b'"prompt_tokens_details":{"cached_tokens":12}}}',
        12,
    ),
    "llamacpp": (
        b'{"choices":[],"model":"tiny","usage":{"completion_tokens":10,"prompt_tokens":20,"total_tokens":30,'
        b'"prompt_tokens_details":{"cached_tokens":17}},"timings":{"cache_n":17,"draft_n":9,"draft_n_accepted":0}}',
        17,
    ),
    "ollama": (b'{"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}', 0),
    "transformers, in the last choice's chunk": (
        b'{"choices":[{"delta":{},"finish_reason":"length","index":0}],"model":"m@main",'
        b'"object":"chat.completion.chunk","usage":{"completion_tokens":10,"prompt_tokens":20,"total_tokens":30}}',
        0,
    ),
    "tgi, in the last choice's chunk": (
        b'{"object":"chat.completion.chunk","id":"","model":"tgi","choices":[{"index":0,"delta":{"role":"assistant",'
        b'"content":""},"logprobs":null,"finish_reason":"length"}],'
        b'"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}',
        0,
    ),
}


@pytest.mark.parametrize("engine", STREAM_ENDS)
def test_usage_is_read_from_every_engines_stream(engine: str) -> None:
    chunk, cached = STREAM_ENDS[engine]
    usage = look(orjson.loads(chunk)).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens) == (20, 10, cached)
    assert usage.measured


def test_a_whole_answer_of_llamacpp_is_read() -> None:
    body = (
        b'{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"hi"}}],"model":"tiny",'
        b'"object":"chat.completion","usage":{"completion_tokens":52,"prompt_tokens":36,"total_tokens":88,'
        b'"prompt_tokens_details":{"cached_tokens":0}},"timings":{"draft_n":129,"draft_n_accepted":8}}'
    )
    usage, _ = whole(body, "chat/completions")
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (36, 52)
