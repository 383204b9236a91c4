"""Hosted APIs of many makers, through litellm's translation: the only module that imports litellm, once it is called.

Nothing of litellm but the translation is used. Its network fetches at import, telemetry, callbacks, retries, fallbacks
and logging are off, its failures are mapped here, and a request's own fields cannot steer where it goes: what is not a
field of OpenAI's protocol travels as ``extra_body``, and no URL that it names is fetched (litellm would, for APIs that
take files only whole). Parameters that an API does not have are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, ClassVar

import orjson

from policies import schema
from router.backends import Call, Reply
from router.backends.openai import patched
from router.errors import Kind, UpstreamError, classify, keep_secret, redact
from router.retry_after import retry_after

_FIELDS = frozenset({
    "messages", "prompt", "input", "model", "stream", "stream_options", "temperature", "top_p", "n", "stop",
    "max_tokens", "max_completion_tokens", "presence_penalty", "frequency_penalty", "logit_bias", "user", "seed",
    "tools", "tool_choice", "functions", "function_call", "logprobs", "top_logprobs", "parallel_tool_calls",
    "response_format", "reasoning_effort", "modalities", "prediction", "audio", "verbosity", "service_tier",
    "store", "dimensions", "encoding_format", "suffix", "echo", "best_of", "web_search_options", "thinking",
})  # fmt: skip
_CALLS = {"chat/completions": "acompletion", "completions": "atext_completion", "embeddings": "aembedding"}
_OFFLINE = ("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "LITELLM_LOCAL_BLOG_POSTS")
_PREFIX = re.compile(r"^(?:(?:litellm\.)?\w+(?:Error|Timeout): )*(?:\w+Exception - )?")
_JSON = {"content-type": "application/json"}
_EVENTS = {"content-type": "text/event-stream"}


def _litellm() -> Any:
    """Import litellm with everything but translation switched off. Takes seconds the first time."""
    if "litellm" not in sys.modules:
        for name in _OFFLINE:
            os.environ[name] = "True"
        os.environ.setdefault("LITELLM_LOG", "CRITICAL")
        warnings.filterwarnings("ignore", module="litellm|pydantic")
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.drop_params = True
    litellm.num_retries = 0
    litellm.callbacks = litellm.success_callback = litellm.failure_callback = []
    litellm.cache = None
    litellm.disable_streaming_logging = True
    litellm.turn_off_message_logging = True
    from litellm.litellm_core_utils import url_utils

    def refuse(url: str) -> None:
        raise url_utils.SSRFError("nothing that a request names is fetched")

    litellm.user_url_validation = True
    url_utils.validate_url = refuse
    return litellm


async def _shut_down() -> None:
    """Close what litellm keeps open for everyone: pooled clients and the task that runs its (absent) callbacks."""
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
    from litellm.llms.custom_httpx.async_client_cleanup import close_litellm_async_clients

    litellm = sys.modules["litellm"]
    with contextlib.suppress(RuntimeError):
        await GLOBAL_LOGGING_WORKER.stop()
    await close_litellm_async_clients()
    litellm.in_memory_llm_clients_cache.flush_cache()


class Hosted:
    """A backend of kind ``hosted``: ``model`` is litellm's name, such as ``openai/gpt-4o``."""

    _open: ClassVar[int] = 0
    """How many are open: the last one to close shuts down what litellm shares among them."""

    def __init__(self, config: schema.Backend, timeouts: schema.Timeouts) -> None:
        self.name = config.name
        self.config = config
        headers = {name: value.get_secret_value() for name, value in config.headers.items()}
        key = config.api_key.get_secret_value() if config.api_key is not None else ""
        self._secrets = (*headers.values(), *([key] if key else []))
        keep_secret(*self._secrets)
        stated = {"api_base": config.base_url, "api_key": key or None, "extra_headers": headers or None}
        self._fixed: dict[str, Any] = {
            "timeout": timeouts.total.total_seconds(),
            "max_retries": 0,
            "num_retries": 0,
            **{name: value for name, value in stated.items() if value is not None},
        }
        Hosted._open += 1
        self._closing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"Hosted({self.name!r}, model={self.config.model!r})"

    async def send(self, call: Call) -> Reply:
        """Make the call. Raises `UpstreamError`."""
        name = _CALLS.get(call.path)
        if name is None:
            raise UpstreamError("not_found", f"A hosted backend has no {redact(call.path)}.", status=404)
        litellm = await asyncio.to_thread(_litellm)
        body = json.loads(orjson.dumps(patched(call, self.config.model)))
        known = {field: value for field, value in body.items() if field in _FIELDS and value is not None}
        extra = {field: value for field, value in body.items() if field not in _FIELDS}
        if extra:
            known["extra_body"] = extra
        if "tools" in known:
            known["_skip_mcp_handler"] = True
        ask: Callable[..., Awaitable[Any]] = getattr(litellm, name)
        if call.on_sent is not None:
            call.on_sent()
        try:
            answer = await ask(**known, **self._fixed)
        except Exception as error:
            raise self._mapped(error) from None
        if call.stream:
            return _Events(answer, self._mapped, self._closing)
        return _Whole(orjson.dumps(_measured(answer.model_dump(exclude_none=True)), default=str))

    async def healthy(self) -> bool:
        """A hosted API is taken to be well: asking it would cost money."""
        return True

    async def aclose(self) -> None:
        """Wait for cancelled streams to be closed; the last backend closes litellm's connections and its worker."""
        if self._closing:
            await asyncio.wait(self._closing)
        Hosted._open -= 1
        if not Hosted._open and "litellm" in sys.modules:
            await _shut_down()

    def _mapped(self, error: Exception) -> UpstreamError:
        """What a failure of litellm's means, in our kinds: the one place that knows its exceptions."""
        original = getattr(error, "original_exception", None)
        if isinstance(original, Exception):
            return self._mapped(original)
        name = type(error).__name__
        status = getattr(error, "status_code", None)
        status = status if isinstance(status, int) else None
        message = redact(_told(error), self._secrets) or "The hosted API failed without saying why."
        code = getattr(error, "code", None)
        kind: Kind
        match name:
            case "ImageFetchError" | "SSRFError":
                message = "This model takes no files by URL, and the proxy fetches none: send it as a data: URL."
                return UpstreamError("bad_request", message, status=400, code="url_not_fetched")
            case "ContextWindowExceededError":
                kind, status, code = "context", 400, "context_length_exceeded"
            case "Timeout" | "APITimeoutError":
                return UpstreamError("timeout", message, phase="headers")
            case _ if name == "APIConnectionError" or "Connection error" in message:
                kind, status = "connect", None
            case _ if status is not None and status >= 400:
                kind = classify(status, code if isinstance(code, str) else None, message)
            case _:
                kind = "malformed"
        response = getattr(error, "response", None)
        headers = getattr(error, "litellm_response_headers", None) or getattr(response, "headers", None) or {}
        wait = retry_after({str(key).lower(): str(value) for key, value in headers.items()}, time.time())
        return UpstreamError(
            kind, message, status=status, code=code if isinstance(code, str) else None, retry_after=wait
        )


class _Whole:
    """A translated answer, whole."""

    status = 200
    headers: Mapping[str, str] = _JSON

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def read(self) -> bytes:
        return self._body

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._body

    def close(self) -> None:
        """Nothing is open any more."""


class _Events:
    """A translated stream, written as server-sent events."""

    status = 200
    headers: Mapping[str, str] = _EVENTS

    def __init__(
        self, stream: Any, mapped: Callable[[Exception], UpstreamError], closing: set[asyncio.Task[None]]
    ) -> None:
        self._stream, self._mapped, self._closing = stream, mapped, closing
        self._over = False

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                document = _tidy(chunk.model_dump(exclude_none=True))
                if document.get("usage") and not self._told_usage():
                    del document["usage"]
                    if not document["choices"]:
                        continue
                yield b"data: " + orjson.dumps(document, default=str) + b"\n\n"
        except Exception as error:
            raise self._mapped(error) from None
        self._over = True
        yield b"data: [DONE]\n\n"

    def _told_usage(self) -> bool:
        """Whether usage came from the API: litellm counts tokens itself, and does not say so, where none came.

        Without it the attempt is billed by an estimate that is marked as one.
        """
        came = getattr(self._stream, "chunks", None)
        return came is None or any(getattr(chunk, "usage", None) for chunk in came)

    def close(self) -> None:
        """Drop the connection, in the background: litellm can only be awaited."""
        if not self._over:
            self._over = True
            task = asyncio.ensure_future(self._drop())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _drop(self) -> None:
        with contextlib.suppress(Exception):
            await self._stream.aclose()


def _tidy(chunk: dict[str, Any]) -> dict[str, Any]:
    """A chunk as OpenAI has it: the one with usage has no choices; litellm leaves empty ones."""
    if chunk.get("usage") and not any(choice.get("delta") or choice.get("text") for choice in chunk["choices"]):
        chunk["choices"] = [choice for choice in chunk["choices"] if choice.get("finish_reason")]
    return chunk


def _measured(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without the zeros that litellm puts in the place of a usage that did not come."""
    if not any(isinstance(count, int) and count for count in (answer.get("usage") or {}).values()):
        answer.pop("usage", None)
    return answer


def _told(error: Exception) -> str:
    """The upstream's own words, without litellm's prefixes such as ``litellm.BadRequestError: OpenAIException - ``."""
    return _PREFIX.sub("", str(getattr(error, "message", None) or error))
