"""The remote encoder against a real endpoint on a real socket, and what happens when that misbehaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import numpy as np
import pytest

from router.encoders import EndpointAway
from router.remote_encoder import RemoteEncoder


class Endpoint(BaseHTTPRequestHandler):
    """Embeds a text as its length and a constant, in the order asked for by ``index`` but sent backwards."""

    broken: Any = None
    keys: ClassVar[list[str | None]] = []

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        Endpoint.keys.append(self.headers["authorization"])
        rows = [{"index": i, "embedding": [float(len(text)), 1.0]} for i, text in enumerate(asked["input"])]
        body = json.dumps({"data": rows[::-1]} if self.broken is None else self.broken).encode()
        self.send_response(200 if self.broken != "error" else 500)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()
    Endpoint.broken = None
    Endpoint.keys.clear()


def test_vectors_come_back_in_order_and_at_length_one(url: str) -> None:
    with RemoteEncoder(url, "some-model", "secret", 5.0) as encoder:
        vectors = encoder.encode(["abc", "a"])
        assert (encoder.name, encoder.dimension, vectors.dtype) == ("some-model", 2, np.float32)
        np.testing.assert_allclose(vectors, [[3 / 10**0.5, 1 / 10**0.5], [1 / 2**0.5, 1 / 2**0.5]], rtol=1e-6)
        assert encoder.encode([]).shape == (0, 2)
    assert set(Endpoint.keys) == {"Bearer secret"}


@pytest.mark.parametrize(
    "broken", ["error", {}, {"data": []}, {"data": [{"index": 0, "embedding": ["x", None]}]}, {"data": [{"index": 0}]}]
)
def test_anything_but_vectors_is_said_to_be_unavailable(url: str, broken: Any) -> None:
    with RemoteEncoder(url, "some-model", "secret", 5.0) as encoder:
        Endpoint.broken = broken
        with pytest.raises(EndpointAway) as raised:
            encoder.encode(["abc"])
    assert "secret" not in str(raised.value)


def test_nobody_there_is_said_to_be_unavailable() -> None:
    with pytest.raises(EndpointAway):
        RemoteEncoder("http://127.0.0.1:9", "some-model", None, 1.0)
