"""``transformers serve`` on a tiny local model behind the proxy. Opt-in: ``pytest -m transformers``, with the extra
``transformers[serving]`` installed; it takes about a minute, most of it imports."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from router.launch import running_proxy
from tests.waiting import eventually

pytestmark = pytest.mark.transformers

POLICY = """
version: 1
tiers:
  small:
    backends:
      - name: tiny
        kind: transformers
        model: {model}
        base_url: {url}
        context_window: 2048
        cost: {{gpu_hour_usd: 1}}
"""
MAKE = """
import sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
vocabulary = {"<s>": 0, "</s>": 1, **{letter: number for number, letter in enumerate(letters, 2)}}
tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
whole.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\\n{% endfor %}assistant:"
whole.save_pretrained(sys.argv[1])
shape = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=2048, bos_token_id=0, eos_token_id=1,
                             **shape)).save_pretrained(sys.argv[1])
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[str]:
    command = shutil.which("transformers", path=Path(sys.executable).parent)
    if command is None or find_spec("fastapi") is None:
        pytest.fail("who asks for this test must have what it needs: pip install 'transformers[serving]'")
    folder = tmp_path_factory.mktemp("transformers")
    model = folder / "model"
    subprocess.run([sys.executable, "-c", MAKE, str(model)], check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", str(model)]
    server = subprocess.Popen([command, "serve", *options], env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        eventually(lambda: _well(f"http://127.0.0.1:{port}/health"), seconds=120)
        policy = folder / "policy.yaml"
        policy.write_text(POLICY.format(url=f"http://127.0.0.1:{port}/v1", model=model))
        environ = {**os.environ, "TIERWISE_CACHE_DIR": str(cache)}
        with running_proxy(policy, folder / "data", environ=environ) as proxy:
            proxy.wait_until_ready()
            yield proxy.url
    finally:
        server.kill()
        server.wait()


def _well(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def test_it_answers_streams_and_states_its_usage(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-test", max_retries=0) as client:
        check(client)


def check(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    answer = client.chat.completions.create(**asked)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (19, 8)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    usage = next(chunk.usage for chunk in reversed(chunks) if chunk.usage is not None)
    assert usage.completion_tokens == 8
    assert usage.model_dump()["cost"] > 0
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "length"
