"""Keys through the real server: who may ask, for what, and how soon a revoked key is refused by every worker."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from router import cli
from router.cli import serve
from router.compose import open_proxy
from router.keys import Key, made, make
from router.launch import Proxy, running_proxy
from router.settings import Settings
from router.state import open_store
from router.wire import Client
from tests.contracts.stores_servers import running as running_server
from tests.contracts.stores_servers import valkey_server
from tests.journeys.conftest import POLICY

HELLO: Any = [{"role": "user", "content": "Hello there!"}]
BODY = {"model": "tier/small", "messages": HELLO}
SHAPE = {"message", "type", "param", "code"}
AUTH = """
auth: {required: true, trust: gateway}
rules: [{name: premium, when: {header: {x-plan: [premium]}}, tier: large}]
"""


def keys(data: Path, *arguments: str) -> Any:
    command = [sys.executable, "-m", "router.cli", "keys", *arguments, "--json", "--data-dir", str(data)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)


async def tell(data: Path, new: Sequence[Key]) -> None:
    """Put keys into the embedded store of a data folder."""
    async with open_store("", data) as store:
        for key in new:
            await store.tell_key(made(key))


@dataclass(frozen=True)
class Locked:
    """A proxy of two workers that requires keys, and some keys by id."""

    proxy: Proxy
    data: Path
    keys: Mapping[str, str]

    def client(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.proxy.url}/v1", api_key=self.keys[key], max_retries=0)

    def get(self, path: str, key: str | None = None) -> httpx.Response:
        return httpx.get(self.proxy.url + path, headers=self.bearer(key), timeout=30)

    def post(self, path: str, key: str | None = None, **headers: str) -> httpx.Response:
        body = {"model": "auto", "messages": HELLO}
        return httpx.post(self.proxy.url + path, json=body, headers={**self.bearer(key), **headers}, timeout=30)

    def bearer(self, key: str | None) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys.get(key, key)}"} if key else {}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    folder = tmp_path_factory.mktemp("auth")
    policy, data = folder / "policy.yaml", folder / "data"
    policy.write_text(POLICY + AUTH)
    with running_proxy(policy, data, "--workers", "2") as proxy:
        proxy.wait_until_ready()
        new = [make("ann"), make("intern", allowed=("tier/small",)), make("gateway"), make("ops", admin=True)]
        asyncio.run(tell(data, [key for key, _ in new]))
        found = Locked(proxy, data, {key.id: text for key, text in new})
        until(proxy, found.keys["ops"], 200)
        yield found


def until(proxy: Proxy, key: str, status: int, seconds: float = 20.0) -> None:
    """Wait until every worker answers a key so: new connections come to either of them."""
    deadline, in_a_row = time.monotonic() + seconds, 0
    while in_a_row < 12:
        assert time.monotonic() < deadline
        answer = httpx.get(f"{proxy.url}/v1/models", headers={"authorization": f"Bearer {key}"})
        in_a_row = in_a_row + 1 if answer.status_code == status else 0


def test_a_client_with_a_key_is_served_and_booked_under_its_id(locked: Locked) -> None:
    answer = locked.client("ann").chat.completions.create(model="auto", messages=HELLO)
    assert answer.choices[0].message.content
    anthropic_style = {"x-api-key": locked.keys["ann"]}
    assert httpx.post(f"{locked.proxy.url}/v1/chat/completions", json=BODY, headers=anthropic_style).status_code == 200
    deadline = time.monotonic() + 20
    while True:
        shown = locked.get("/report?by=key", "ops").json()
        rows = {row["key"]: row for row in shown["rows"]}
        if rows.get("ann", {}).get("requests", 0) >= 2 or time.monotonic() > deadline:
            break
    assert rows["ann"]["requests"] == 2
    assert locked.keys["ann"] not in json.dumps(shown)


@pytest.mark.parametrize(("key", "code"), [(None, "missing_api_key"), ("sk-wrong", "invalid_api_key")])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route", "/v1/no-such-path"])
def test_without_a_valid_key_nothing_is_served(locked: Locked, path: str, key: str | None, code: str) -> None:
    response = locked.post(path, key)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    error = response.json()["error"]
    assert set(error) == SHAPE
    assert (error["type"], error["code"]) == ("authentication_error", code)


def test_the_openai_client_understands_the_refusals(locked: Locked) -> None:
    stranger = openai.OpenAI(base_url=f"{locked.proxy.url}/v1", api_key="tw-ann-" + "0" * 64, max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    with pytest.raises(openai.PermissionDeniedError) as raised:
        locked.client("intern").chat.completions.create(model="tier/large", messages=HELLO)
    assert raised.value.code == "model_not_allowed"


def test_a_body_is_not_read_before_the_key_is_known(locked: Locked) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 150000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(locked.proxy.url).port), timeout=20) as client:
        client.sendall(head)
        assert client.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_a_limited_key_sees_and_gets_what_it_may_use(locked: Locked) -> None:
    client = locked.client("intern")
    assert {model.id for model in client.models.list()} == {
        "auto",
        "auto:cheap",
        "tier/small",
        "small-1",
        "gpt-4o-mini",
    }
    hard = "Prove that every group in which each element is its own inverse is abelian, and count its subgroups."
    for model in ("auto", "gpt-4o-mini", "small-1"):
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": hard}]
        )
        assert raw.headers["x-tierwise-tier"] == "small"
    assert raw.headers["x-tierwise-reason"].startswith("the key may use tier/small")
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="gpt-9", messages=HELLO)
    assert "large" not in raised.value.message


def test_headers_steer_for_trusted_keys_alone(locked: Locked) -> None:
    tiers = {key: locked.post("/v1/route", key, **{"x-plan": "premium"}).json()["rules"] for key in ("ann", "gateway")}
    assert tiers == {"ann": [], "gateway": ["premium"]}


@pytest.mark.parametrize("path", ["/report", "/metrics", "/engines", "/dashboard", "/report/", "//report", "/%72eport"])
def test_what_operators_see_needs_an_admins_key(locked: Locked, path: str) -> None:
    assert locked.get(path).status_code == 401
    assert locked.get(path, "ann").status_code == 403
    assert locked.get(path, "ops").status_code != 403


def test_health_is_open_and_details_are_not(locked: Locked) -> None:
    assert locked.get("/healthz").json() == {"status": "ok"}
    assert locked.get("/readyz").json()["ready"] is True
    assert "policy_problem" not in locked.get("/readyz", "ann").json()
    assert "policy_problem" in locked.get("/readyz", "ops").json()


def test_a_key_revoked_elsewhere_is_refused_by_every_worker_within_a_second(locked: Locked) -> None:
    key = keys(locked.data, "create", "leaver")["key"]
    until(locked.proxy, key, 200)
    assert keys(locked.data, "revoke", "leaver") == {"id": "leaver", "revoked": True}
    revoked_at = time.monotonic()
    late = []
    while (passed := time.monotonic() - revoked_at) < 1.5:
        status = httpx.get(f"{locked.proxy.url}/v1/models", headers={"authorization": f"Bearer {key}"}).status_code
        late += [passed] if status != 401 else []
    assert not late or max(late) < 1.0
    listed = {row["id"]: row["state"] for row in keys(locked.data, "list")["keys"]}
    assert (listed["leaver"], listed["ann"]) == ("revoked", "active")


def test_keys_last_known_are_honoured_while_the_store_is_away(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    with running_server(valkey_server(), tmp_path / "store") as store:
        policy.write_text(f"{POLICY}auth: {{required: true}}\nredis: {store.url}\n")
        ann = keys(tmp_path, "create", "ann", "--redis", store.url)["key"]
        with running_proxy(policy, tmp_path / "data") as proxy:
            proxy.wait_until_ready()
            until(proxy, ann, 200)
            store.kill()
            deadline = time.monotonic() + 20
            while httpx.get(f"{proxy.url}/readyz").json()["store"] == "ready":
                assert time.monotonic() < deadline
            headers = {"authorization": f"Bearer {ann}"}
            assert httpx.post(f"{proxy.url}/v1/chat/completions", json=BODY, headers=headers).status_code == 200
            assert httpx.get(f"{proxy.url}/v1/models", headers={"authorization": f"Bearer {ann}0"}).status_code == 401
        with running_proxy(policy, tmp_path / "data") as proxy:
            proxy.wait_until_ready()
            until(proxy, ann, 200)
            store.start()
            bob = keys(tmp_path, "create", "bob", "--redis", store.url)["key"]
            until(proxy, bob, 200)


def test_it_does_not_listen_beyond_loopback_without_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.yaml"
    started: list[Settings] = []

    def record(settings: Settings, listener: socket.socket, *_: object) -> int:
        listener.close()
        started.append(settings)
        return 0

    monkeypatch.setattr(serve, "_serve", record)

    def start(text: str, *options: str) -> int:
        policy.write_text(text)
        return cli.main(["serve", str(policy), "--port", "0", "--data-dir", str(tmp_path), *options])

    assert start(POLICY, "--host", "0.0.0.0") == 2
    assert "auth: {required: true}" in capsys.readouterr().err
    assert not started
    assert start(POLICY + "auth: {required: true}\n", "--host", "0.0.0.0") == 0
    assert start(POLICY, "--host", "0.0.0.0", "--open") == 0
    assert start(POLICY) == 0
    assert [settings.guarded for settings in started] == [True, False, False]


@pytest.mark.anyio
async def test_a_reload_cannot_open_what_only_keys_guard(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY + "auth: {required: true}\n")
    async with open_proxy(Settings(policy, tmp_path / "data", tmp_path, guarded=True)) as proxy:
        before = proxy.readiness()["policy"]
        policy.write_text(POLICY)
        proxy.reload()
        assert "auth.required went away" in str(proxy.readiness()["policy_problem"])
        assert proxy.readiness()["policy"] == before
        assert proxy.policy.auth.required


@pytest.mark.anyio
async def test_the_session_header_names_the_conversation_of_trusted_keys_alone(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY + "auth: {required: true, trust: gateway}\n")
    raw = json.dumps(BODY).encode()
    async with open_proxy(Settings(policy, tmp_path / "data", tmp_path)) as proxy:
        for id, steers in (("ann", False), ("gateway", True)):
            key, _ = make(id)
            plain, named = (
                proxy.read_chat(raw, given, Client(key.id)).features
                for given in ({}, {b"x-session-id": b"of someone else"})
            )
            assert plain.key_id == named.key_id == id
            assert (plain.conversation != named.conversation) is steers
