"""A real llama.cpp server on tiny models that are made here: random weights, a byte tokenizer, no download.

Run as a script it serves: ``python llamacpp.py MODEL [DRAFT]``; the address stands on the first line of its output.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DIM, LAYERS, HEADS, FEED, VOCABULARY, WINDOW = 256, 4, 4, 512, 512, 8192
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def make_model(path: Path, *, blend: float = 0.0, precision: str = "F32") -> Path:
    """Write a Llama of 3 million random weights. ``blend`` mixes in others: 0 is the same model, 1 another one.

    A draft that differs a little from its target is right some of the time. ``precision`` is one of gguf's types.
    """
    import gguf
    import numpy as np

    kind = gguf.GGMLQuantizationType[precision]
    own, other = np.random.default_rng(0), np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(WINDOW)
    writer.add_embedding_length(DIM)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(DIM // HEADS)
    writer.add_vocab_size(VOCABULARY)
    _add_tokenizer(writer)

    def weights(name: str, rows: int, columns: int, scale: float | None = None) -> None:
        drawn = [random.standard_normal((rows, columns), dtype=np.float32) for random in (own, other)]
        mixed = ((1 - blend) * drawn[0] + blend * drawn[1]) * np.float32(scale or columns**-0.5)
        writer.add_tensor(name, gguf.quants.quantize(mixed, kind), raw_dtype=kind)

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(DIM, np.float32))

    weights("token_embd.weight", VOCABULARY, DIM, scale=1.0)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        ones(f"{block}.attn_norm.weight")
        ones(f"{block}.ffn_norm.weight")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weights(f"{block}.{part}.weight", DIM, DIM)
        weights(f"{block}.ffn_gate.weight", FEED, DIM)
        weights(f"{block}.ffn_up.weight", FEED, DIM)
        weights(f"{block}.ffn_down.weight", DIM, FEED)
    ones("output_norm.weight")
    weights("output.weight", VOCABULARY, DIM)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any) -> None:
    """One token for each byte, and made-up words for the rest; the end of a text is never likely."""
    control, byte, word = 3, 6, 1
    words = [f"\u2581w{number}".encode() for number in range(VOCABULARY - 259)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([b"<unk>", b"<s>", b"</s>", *(f"<0x{value:02X}>".encode() for value in range(256)), *words])
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([2, control, control, *[byte] * 256, *[word] * len(words)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)


@contextmanager
def running_server(model: Path, draft: Path | None = None) -> Iterator[str]:
    """A server of this model, as ``http://…/v1``, until the block ends."""
    command = [sys.executable, str(Path(__file__)), str(model), *([str(draft)] if draft else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address.startswith("http://"):
            raise RuntimeError(f"llama.cpp did not start (exit code {process.wait(timeout=30)})")
        yield f"{address}/v1"
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def serve(model: str, draft: str | None) -> None:
    """Serve until killed: two slots, metrics on, one thread."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.model_alias = {"tiny"}
    settings.hostnames, settings.port = ["127.0.0.1"], 0
    settings.n_ctx, settings.n_parallel = WINDOW, 2
    settings.endpoint_metrics, settings.warmup = True, False
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    if draft:
        settings.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        settings.speculative.draft.mparams.path = draft
        settings.speculative.draft.n_max = 3
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
