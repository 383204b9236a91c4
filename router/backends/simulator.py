"""A model that is not there: a real HTTP server on loopback that speaks OpenAI's protocol and says plausible things.

Everything it does follows from the request and a seed, so that a run can be repeated. It keeps the protocol's promises
(tools, JSON mode, ``n``, ``stop``, length limits, usage in streams, cached prefixes) and none about being right.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from policies.schema import Simulation
from router.backends import answers
from router.backends.attended import Attended
from router.backends.figures import Figures
from router.errors import shape

_TOKEN = re.compile(r"\s*[^\W_]{1,8}|\s*[^\w\s]|\s+|_")
_CACHE_BLOCK = 16
_CACHED_PREFIXES = 4_096


class Simulator:
    """One simulated model behind one port of its own, from `start` to `stop`, in a thread with its own event loop."""

    def __init__(self, model: str, behaviour: Simulation, context_window: int | None = None) -> None:
        self._app = App(model, behaviour, context_window)
        self._socket = socket.create_server(("127.0.0.1", 0))
        host, port = self._socket.getsockname()
        self.url = f"http://{host}:{port}/v1"
        self._server = _Server(Attended(self._app.starlette))
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name=f"simulated {model}", daemon=True
        )

    def start(self) -> None:
        """Begin to answer. Connections made before wait in the socket's queue."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and wait for the thread to end."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()

    @property
    def served(self) -> int:
        """How many requests have been answered or begun to be."""
        return self._app.served


class _Server(uvicorn.Server):
    """uvicorn in a thread: it ends what is under way when it stops, and keeps its comings and goings to itself."""

    def __init__(self, app: Attended) -> None:
        # Without a log_config, since logging is the whole process's; without a level, for the same reason.
        super().__init__(
            uvicorn.Config(
                app, log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
            )
        )
        self._attended = app

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop."""
        quiet = _OwnThread()
        server = logging.getLogger("uvicorn.error")
        server.addFilter(quiet)
        try:
            await super().serve(sockets)
        finally:
            server.removeFilter(quiet)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, and wait for what that ends."""
        self._attended.leave()
        await super().shutdown(sockets)


class _OwnThread(logging.Filter):
    """Drops what is said in this thread and is no warning; other servers of the process go on being heard."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread or record.levelno >= logging.WARNING


class App:
    """The HTTP face: chat completions, completions, embeddings, models, health, metrics."""

    def __init__(self, model: str, behaviour: Simulation, context_window: int | None) -> None:
        self._model = model
        self._behaviour = behaviour
        self._window = context_window
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._figures = Figures(model)
        self.served = 0
        self.starlette = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._chat, methods=["POST"]),
                Route("/v1/embeddings", self._embeddings, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/health", self._health),
                Route("/metrics", self._metrics),
            ]
        )

    async def _chat(self, request: Request) -> Response:
        self.served += 1
        try:
            body = orjson.loads(await request.body())
            prompt = prompt_of(body)
            choices = [self._choice(body, prompt, index) for index in range(int(body.get("n") or 1))]
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            return _refusal(400, f"The body cannot be read: {error}", None)
        if body.get("model") != self._model:
            return _refusal(404, f"The model {body.get('model')!r} does not exist.", "model_not_found", "model")
        given = len(_TOKEN.findall("\n".join(prompt)))
        if self._window is not None and given > self._window:
            told = f"This model's maximum context length is {self._window} tokens, the messages have {given}."
            return _refusal(400, told, "context_length_exceeded", "messages")
        usage = self._usage(prompt, given, choices)
        chat = request.url.path.endswith("chat/completions")
        frame = _frame(self._model, prompt, chat)
        with self._figures.running():
            await asyncio.sleep(self._behaviour.ttft.total_seconds())
            self._figures.begun(usage, self._behaviour.ttft.total_seconds())
            if not body.get("stream"):
                await asyncio.sleep(max(len(choice.pieces) for choice in choices) / self._behaviour.tokens_per_second)
        if body.get("stream"):
            asked = bool((body.get("stream_options") or {}).get("include_usage"))
            events = self._figures.through(self._events(frame, choices, usage if asked else None, chat))
            return StreamingResponse(events, media_type="text/event-stream")
        whole = {
            **frame,
            "object": "chat.completion" if chat else "text_completion",
            "choices": [choice.whole(index, chat) for index, choice in enumerate(choices)],
            "usage": usage,
        }
        return Response(orjson.dumps(whole), media_type="application/json")

    async def _events(
        self, frame: dict[str, Any], choices: list[answers.Answer], usage: dict[str, Any] | None, chat: bool
    ) -> AsyncIterator[bytes]:
        def event(choice: dict[str, Any] | None, stated: dict[str, Any] | None = None) -> bytes:
            chunk = {**frame, "choices": [choice] if choice else []}
            if usage is not None:
                chunk["usage"] = stated
            return b"data: " + orjson.dumps(chunk) + b"\n\n"

        begun = time.monotonic()
        if chat:
            for index in range(len(choices)):
                delta = {"role": "assistant", "content": ""}
                yield event({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})
        for step in range(max(len(choice.pieces) for choice in choices)):
            await asyncio.sleep(begun + step / self._behaviour.tokens_per_second - time.monotonic())
            for index, choice in enumerate(choices):
                if step < len(choice.pieces):
                    yield event(choice.piece(index, step, chat))
        for index, choice in enumerate(choices):
            last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
            yield event({"index": index, **last, "logprobs": None, "finish_reason": choice.finish_reason})
        if usage is not None:
            yield event(None, usage)
        yield b"data: [DONE]\n\n"

    def _choice(self, body: dict[str, Any], prompt: list[str], index: int) -> answers.Answer:
        seed = f"{self._behaviour.seed}:{self._model}:{index}:{prompt}".encode()
        random = Random(hashlib.blake2b(seed, digest_size=8).digest())
        return answers.answer(body, prompt[-1] if prompt else "", random, self._behaviour.output_tokens, _TOKEN.findall)

    def _usage(self, prompt: list[str], given: int, choices: list[answers.Answer]) -> dict[str, Any]:
        said = sum(len(choice.pieces) for choice in choices)
        return {
            "prompt_tokens": given,
            "completion_tokens": said,
            "total_tokens": given + said,
            "prompt_tokens_details": {"cached_tokens": self._cached(prompt)},
        }

    def _cached(self, prompt: list[str]) -> int:
        """Tokens of the longest run of leading messages seen before, in whole blocks; remembers this prompt."""
        cached, tokens, digest = 0, 0, hashlib.blake2b(digest_size=16)
        for message in prompt:
            tokens += len(_TOKEN.findall(message))
            digest.update(message.encode() + b"\0")
            key = digest.digest()
            if key in self._seen:
                cached = tokens
                self._seen.move_to_end(key)
            else:
                self._seen[key] = None
        while len(self._seen) > _CACHED_PREFIXES:
            self._seen.popitem(last=False)
        return cached // _CACHE_BLOCK * _CACHE_BLOCK

    async def _embeddings(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        given = body["input"] if isinstance(body["input"], list) else [body["input"]]
        vectors = [[Random(f"{text}:{at}").uniform(-1, 1) for at in range(8)] for text in given]
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        tokens = sum(len(_TOKEN.findall(str(text))) for text in given)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        whole = {"object": "list", "data": data, "model": self._model, "usage": usage}
        return Response(orjson.dumps(whole), media_type="application/json")

    async def _models(self, request: Request) -> Response:
        model: dict[str, Any] = {"id": self._model, "object": "model", "created": 0, "owned_by": "tierwise"}
        if self._window is not None:
            model["max_model_len"] = self._window
        return Response(orjson.dumps({"object": "list", "data": [model]}), media_type="application/json")

    async def _health(self, request: Request) -> Response:
        return Response(b"")

    async def _metrics(self, request: Request) -> Response:
        return Response(self._figures.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def prompt_of(body: dict[str, Any]) -> list[str]:
    """The texts of a request, one for each message, oldest first. Raises on a body that is not a chat or completion."""
    if "prompt" in body:
        return [str(body["prompt"])]
    texts = []
    for message in body["messages"]:
        content = message.get("content") or ""
        parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        texts.append(f"{message['role']}: {' '.join(parts)}")
    return texts


def _frame(model: str, prompt: list[str], chat: bool) -> dict[str, Any]:
    digest = hashlib.blake2b("\0".join(prompt).encode(), digest_size=12).hexdigest()
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{digest}",
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": int(time.time()),
        "model": model,
    }


def _refusal(status: int, message: str, code: str | None, param: str | None = None) -> Response:
    body = shape(status, message, code=code, param=param)
    return Response(orjson.dumps(body), status_code=status, media_type="application/json")
