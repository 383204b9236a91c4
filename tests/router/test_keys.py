"""Clients' keys: what is kept of them, how they are checked, and how workers keep up."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import keys
from router.errors import RequestError
from router.key_copy import COPY_NAME, KeyCopy
from router.keys import Key, Keyring, made, make, replay, revoked, text_in
from router.state.values import StoreAway


class Log:
    """The store's log of keys, in memory."""

    def __init__(self, *events: bytes) -> None:
        self.events = list(events)
        self.away = False
        self.asked = 0

    async def tell_key(self, event: bytes) -> None:
        self.events.append(event)

    async def key_events(self, after: str, count: int) -> list[tuple[str, bytes]]:
        self.asked += 1
        if self.away:
            raise StoreAway("gone")
        first = int(after or 0)
        return [(str(at), event) for at, event in enumerate(self.events, 1)][first : first + count]


class NoCopy:
    """A copy that is never there."""

    def load(self) -> dict[str, Key]:
        return {}

    def add(self, events: Sequence[bytes], *, afresh: bool) -> None:
        pass

    def settle(self) -> None:
        pass


async def keyring(*events: bytes) -> Keyring:
    ring = Keyring(Log(*events), NoCopy())
    await ring.refresh()
    return ring


def refused(ring: Keyring, text: str) -> tuple[int, str, str]:
    with pytest.raises(RequestError) as raised:
        ring.check(text)
    return raised.value.status, raised.value.code, raised.value.message


def test_a_key_is_kept_as_a_hash_of_256_random_bits() -> None:
    key, text = make("ann")
    secret = text.removeprefix("tw-ann-")
    assert len(bytes.fromhex(secret)) == 32
    assert key.digest == hashlib.sha256(text.encode()).digest()
    assert secret not in made(key).decode()
    assert secret not in repr(key)
    assert key.digest.hex() not in repr(key)
    assert make("ann")[1] != text


@pytest.mark.parametrize("id", ["", "-a", "a b", "a\n", "é", "x" * 65, "anonymous", "key_0123", "a:b"])
def test_what_cannot_be_an_id(id: str) -> None:
    with pytest.raises(ValueError, match="cannot be a key's id"):
        make(id)


@pytest.mark.anyio
@pytest.mark.parametrize("id", ["ann", "my-team-1", "a.b_c"])
async def test_a_key_is_known_by_all_of_its_text(id: str) -> None:
    key, text = make(id, allowed=("tier/small",), admin=True, note="x")
    ring = await keyring(made(key))
    assert ring.check(text) == key
    assert ring.find_active(text) == key
    other = text[:-1] + ("0" if text[-1] != "0" else "1")
    for wrong in (other, text + "0", text[:-1], text.upper(), f"tw-{id}-", f"tw-{id}", key.digest.hex(), "sk-other"):
        assert refused(ring, wrong)[:2] == (401, "invalid_api_key")
        assert ring.find_active(wrong) is None
    assert refused(ring, "")[:2] == (401, "missing_api_key")


@pytest.mark.anyio
async def test_a_revoked_key_is_told_so_and_others_are_not() -> None:
    key, text = make("ann")
    ring = await keyring(made(key), revoked("ann", 7.0))
    assert refused(ring, text) == (401, "invalid_api_key", "The key 'ann' is revoked.")
    assert "revoked" not in refused(ring, "tw-ann-" + "0" * 64)[2]
    assert ring.find_active(text) is None


@pytest.mark.anyio
async def test_a_key_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    key, text = make("ann", expires=1_000.0)
    ring = await keyring(made(key))
    monkeypatch.setattr(keys, "time", lambda: 999.0)
    assert ring.check(text) == key
    monkeypatch.setattr(keys, "time", lambda: 1_000.0)
    assert refused(ring, text)[2] == "The key 'ann' is expired."


@pytest.mark.anyio
async def test_a_keyring_reads_on_and_keeps_what_it_knows_while_the_store_is_away() -> None:
    (ann, ann_text), (bob, bob_text) = make("ann"), make("bob")
    log = Log(made(ann))
    ring = Keyring(log, NoCopy())
    log.away = True
    await ring.refresh()
    assert refused(ring, ann_text)[:2] == (503, "keys_unavailable")
    log.away = False
    await ring.refresh()
    assert ring.check(ann_text) == ann
    log.away = True
    await log.tell_key(made(bob))
    await log.tell_key(revoked("ann", 7.0))
    await ring.refresh()
    assert ring.check(ann_text) == ann
    assert refused(ring, bob_text)[0] == 401
    log.away = False
    await ring.refresh()
    assert refused(ring, ann_text)[0] == 401
    assert ring.check(bob_text) == bob


@pytest.mark.anyio
async def test_who_starts_while_the_store_is_away_honours_the_keys_last_known(tmp_path: Path) -> None:
    (ann, ann_text), (bob, bob_text), (eve, eve_text) = make("ann"), make("bob"), make("eve")
    log = Log(made(ann), made(bob), made(eve), revoked("eve", 7.0))
    await Keyring(log, KeyCopy(tmp_path, "redis://one")).refresh()
    log.away = True
    ring = Keyring(log, KeyCopy(tmp_path, "redis://one"))
    await ring.refresh()
    assert (ring.check(ann_text), ring.check(bob_text)) == (ann, bob)
    assert refused(ring, eve_text)[2] == "The key 'eve' is revoked."
    assert refused(ring, make("new")[1])[:2] == (503, "keys_unavailable"), "it may have been made since"
    other = Keyring(log, KeyCopy(tmp_path, "redis://two"))
    await other.refresh()
    assert refused(other, ann_text)[0] == 503, "another store's keys are no keys here"
    log.away = False
    log.events = [made(bob)]
    await ring.refresh()
    assert refused(ring, ann_text)[0] == 401, "what the store says replaces the copy"
    assert ring.check(bob_text) == bob


def test_a_copy_holds_no_key_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    (ann, text), copy = make("ann"), KeyCopy(tmp_path, "redis://one")
    copy.add([made(ann)], afresh=True)
    copy.settle()
    path = tmp_path / COPY_NAME
    assert text.rpartition("-")[2] not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == [path]
    assert copy.load() == {"ann": ann}
    for spoiled in (b"", b"[]", b"\n", b'{"store": "redis://one"}\n7\n'):
        path.write_bytes(spoiled)
        assert copy.load() == {}


@pytest.mark.anyio
async def test_what_happens_is_added_to_the_copy_and_not_all_written_again(tmp_path: Path) -> None:
    """Two workers share a copy: what both add counts once, and the first to start again tidies up."""
    (ann, _), (bob, bob_text) = make("ann"), make("bob")
    log, path = Log(made(ann)), tmp_path / COPY_NAME
    workers = [Keyring(log, KeyCopy(tmp_path, "redis://one")) for _ in range(2)]
    for worker in workers:
        await worker.refresh()
    written = path.stat().st_ino
    await log.tell_key(made(bob))
    await log.tell_key(revoked("ann", 7.0))
    for worker in workers:
        await worker.refresh()
    assert path.stat().st_ino == written
    assert path.read_bytes().count(b'"bob"') == 2
    known = KeyCopy(tmp_path, "redis://one").load()
    assert known == {"ann": replace(ann, revoked=7.0), "bob": bob}
    assert workers[0].check(bob_text) == bob
    await Keyring(log, KeyCopy(tmp_path, "redis://one")).refresh()
    assert path.read_bytes().count(b'"bob"') == 1
    assert KeyCopy(tmp_path, "redis://one").load() == known


def test_a_disk_that_takes_no_copy_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    KeyCopy(tmp_path / "not there", "redis://one").settle()
    assert "cannot be written" in caplog.text


@pytest.mark.anyio
async def test_checking_never_asks_the_store_and_much_is_read_in_pages() -> None:
    pairs = [make(f"k{at}") for at in range(2_500)]
    log = Log(*(made(key) for key, _ in pairs))
    ring = Keyring(log, NoCopy())
    await ring.refresh()
    asked = log.asked
    assert asked == 3
    assert all(ring.check(text) == key for key, text in pairs)
    assert log.asked == asked


def test_the_first_to_take_an_id_has_it_and_nothing_undoes_a_revocation() -> None:
    (first, _), (second, _) = make("ann"), make("ann")
    known: dict[str, Key] = {}
    replay(known, [made(first), made(second), revoked("ann", 7.0), made(second), revoked("ann", 9.0)])
    assert known["ann"].digest == first.digest
    assert known["ann"].revoked == 7.0


json = st.recursive(
    st.none() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(("id", "digest", "revoked", "created", "allowed", "x")), inner)
    ),
    max_leaves=8,
)


@given(st.lists(st.binary(max_size=20) | json.map(orjson.dumps)))
def test_any_event_is_survived(events: list[bytes]) -> None:
    key, _ = make("ann")
    known: dict[str, Key] = {}
    replay(known, [*events, made(key)])
    assert known["ann"].id == "ann"


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({b"authorization": b"Bearer tw-a"}, "tw-a"),
        ({b"authorization": b"bearer   tw-a "}, "tw-a"),
        ({b"x-api-key": b"tw-a"}, "tw-a"),
        ({b"authorization": b"Basic dGU6c3Q=", b"x-api-key": b"tw-a"}, "tw-a"),
        ({b"authorization": b"Bearer"}, ""),
        ({b"authorization": b"Bearer \xff\xfe"}, "\xff\xfe"),
        ({}, ""),
    ],
)
def test_where_a_request_has_its_key(headers: dict[bytes, bytes], text: str) -> None:
    assert text_in(headers) == text
