"""One worker: the policy in force, everything that serves it, and how one takes over from the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from time import time
from zoneinfo import ZoneInfo

from classifiers.artifact import ArtifactError
from classifiers.encoder import EncoderUnavailable
from classifiers.static import StaticEncoder
from policies import addressing
from policies.document import Loaded, PolicyErrors
from policies.durations import show
from policies.schema import Policy
from router import encoders, wire
from router.backends import open_backends
from router.baseline import Baseline
from router.dispatch import Dispatcher
from router.encoders import EncoderSettings
from router.errors import RequestError
from router.fleet import Fleet
from router.key_copy import KeyCopy
from router.keys import Key, Keyring
from router.ledger import feedback
from router.ledger.ledger import JOURNAL_NAME, Ledger
from router.ledger.lengths import LEARNED_FROM
from router.ledger.sums import hour_of
from router.looks.client import SecondLooks
from router.looks.start import EncoderProcess
from router.memory import return_memory
from router.pipeline import Pipeline
from router.reports import report, window
from router.reports.formats import as_json
from router.reports.sources import JournalSource, NoSource, read_store
from router.rests import SharedRests
from router.settings import Settings, load_policy
from router.signals import SignalReader, load_classifier, terms
from router.state.store import RedisStore, StoreAway
from router.telemetry import Telemetry
from router.workers import Worker

log = logging.getLogger(__name__)

_LISTEN_SECONDS = 0.5
_LOOK_SECONDS = 0.5
_LEARN_SECONDS = 60.0


class Proxy:
    """One worker: the policy in force and everything that serves it."""

    def __init__(self, settings: Settings, loaded: Loaded, store: RedisStore, ledger: Ledger) -> None:
        self._settings = settings
        self._store = store
        self.keys = Keyring(store, KeyCopy(settings.data_dir, store.url))
        self._ledger = ledger
        worker = Worker(settings.meeting) if settings.meeting is not None else None
        self._telemetry = Telemetry(lambda: self.pipeline.fleet.views(), worker)
        self._encoder = EncoderSettings.of(loaded.policy.classifier)
        self._static: StaticEncoder | None = None
        self._second = SecondLooks(EncoderProcess(settings.data_dir, settings.cache_dir, self._encoder))
        self._policy_problem = ""
        self._rests = SharedRests(store)
        self.baseline = Baseline()
        self._retiring: set[asyncio.Task[None]] = set()
        self.draining = False
        self._take(loaded)

    def _take(self, loaded: Loaded) -> None:
        """Build what serves this policy, and only then put it in force."""
        backends = open_backends(loaded.policy)
        dispatcher = Dispatcher(backends, loaded.policy, on_rest=self._rests.tell)
        reader = SignalReader(self._telemetry.looked)
        self._point(reader, loaded.policy)
        fleet = Fleet(dispatcher, loaded.policy)
        self.pipeline = Pipeline(
            loaded, reader, dispatcher, fleet, self._store, self._ledger, self._telemetry, self.baseline
        )
        self._ledger.meter((name, lane.gpu) for name, lane in dispatcher.lanes.items() if lane.gpu is not None)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.pipeline.loaded.policy

    def read_chat(self, raw: bytes, given: Mapping[bytes, bytes], client: wire.Client) -> wire.ChatRequest:
        """Check a chat body under the policy in force; ``given`` are its headers. Raises `RequestError`."""
        pipeline = self.pipeline
        steering = wire.NO_HEADERS
        for name, text in pipeline.headers:
            if name in given and pipeline.auth.trusts(client.id):
                steering = {**steering, text: given[name].decode("latin-1")}
        return wire.read_chat(
            raw,
            steering,
            client,
            seen=pipeline.headers_read,
            session_header=pipeline.session_header,
            keeps_text=pipeline.keeps_text,
        )

    def judge(self, raw: bytes, key: Key | None) -> None:
        """Take feedback on an answer. A key speaks of its own requests, an admin's of any. Raises `RequestError`."""
        client = feedback.ANYBODY if key is None or key.admin or not self.policy.auth.required else key.id
        try:
            self._ledger.judge(feedback.read(raw, client, time()))
        except feedback.FeedbackError as error:
            raise RequestError(400, "invalid_feedback", f"{error}.") from error

    def model_names(self, key: Key | None) -> list[str]:
        """Every name that a request with this key may ask for."""
        return addressing.models(self.policy, key.allowed if key is not None else None)

    async def listen(self) -> None:
        """Hear of backends that other proxies found failing."""
        while True:
            await asyncio.sleep(_LISTEN_SECONDS)
            self._rests.hear(self.pipeline.dispatcher)

    async def learn(self) -> None:
        """Learn from the books how models count and write: the store's, or this folder's while the store is away."""
        try:
            seen = await self._store.seen(LEARNED_FROM)
        except StoreAway:
            if self.baseline.learned:
                return
            journal, today = JournalSource(self._settings.data_dir / JOURNAL_NAME), hour_of(time()) // 24
            hours = range(24 * (today - LEARNED_FROM + 1), 24 * (today + 1))
            try:
                seen = await asyncio.to_thread(journal.sums, hours)
            except NoSource:
                return
        self.baseline.learn(seen)

    async def follow_books(self) -> None:
        """Learn anew every minute, so that all proxies of a store agree, up to a minute."""
        while True:
            await asyncio.sleep(_LEARN_SECONDS)
            await self.learn()

    # classifier

    def _point(self, reader: SignalReader, policy: Policy) -> None:
        """Give a reader the best classifier that the encoders at hand allow."""
        try:
            classifier = load_classifier(policy, self._static)
            reader.use(classifier, self._second.take(terms(policy, classifier)))
        except (ArtifactError, OSError) as error:
            log.error("no classifier: %s; the policy leans to its baseline", error)
            reader.without(str(error))

    async def warm(self) -> None:
        """Bring up the looks behind the requests that are served meanwhile on what there is; then keep them up."""
        try:
            self._static = await asyncio.to_thread(encoders.static, self._encoder, self._settings.cache_dir)
        except EncoderUnavailable as error:
            log.warning("serving on lexical features alone: %s", error)
        else:
            self._point(self.pipeline.reader, self.policy)
        await asyncio.to_thread(return_memory)
        await self._second.keep()

    async def watch_lag(self) -> None:
        """Measure the event loop; see `Telemetry.watch_lag`."""
        await self._telemetry.watch_lag()

    async def share_counts(self) -> None:
        """Tell the other workers what this one has counted; see `Telemetry.keep_sharing`."""
        await self._telemetry.keep_sharing()

    # reload

    async def follow_policy(self) -> None:
        """Reload whenever the policy's file has changed and is not being written any more.

        It is looked at twice a second, through links: so it does not matter whether it was written, replaced, or, as
        Kubernetes does, a link on the way to it swapped; and a busy folder around it costs nothing.
        """
        read = seen = self._stamp()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            before, seen = seen, self._stamp()
            if seen == before and seen != read:
                read = seen
                self.reload()

    def _stamp(self) -> tuple[int, ...]:
        """What changes whenever the policy's file does; nothing while there is none."""
        try:
            found = self._settings.policy.stat()
        except OSError:
            return ()
        return (found.st_mtime_ns, found.st_ino, found.st_dev, found.st_size)

    def reload(self) -> None:
        """Validate the policy's file, then swap it in whole; a bad one keeps the last good one and says so."""
        try:
            loaded = load_policy(self._settings.policy)
        except (OSError, PolicyErrors) as error:
            self._policy_problem = str(error)
            log.error(
                "the policy was not reloaded; the last good one (%s) stays:\n%s", self.pipeline.loaded.hash, error
            )
            return
        if self._settings.guarded and not loaded.policy.auth.required:
            self._policy_problem = "auth.required went away, but the proxy listens beyond loopback without --open"
            log.error("the policy was not reloaded; the last good one stays: %s", self._policy_problem)
            return
        self._policy_problem = ""
        if loaded.policy == self.policy:
            self._point(self.pipeline.reader, self.policy)  # another artifact may lie where it did
            return
        if loaded.policy.redis != self.policy.redis:
            log.warning("a new redis URL takes effect when the proxy starts again")
        old = self.pipeline
        self._take(loaded)
        log.info("the policy %s is in force", loaded.hash)
        retiring = asyncio.create_task(old.retire())
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    # what operators ask

    def readiness(self) -> Mapping[str, object]:
        """The state of each part. A store that is away or an encoder that is not there does not stop the proxy."""
        return {
            "ready": not self.draining,
            "policy": self.pipeline.loaded.hash,
            "policy_problem": self._policy_problem,
            "classifier": self.pipeline.reader.looks,
            "classifier_problem": self.pipeline.reader.problem,
            "store": "ready" if self._store.ready else "away",
            "ledger_problem": self._ledger.problem,
        }

    async def report(self, query: Mapping[str, str]) -> str:
        """The cost report as JSON. Raises `RequestError` for a window or dimension that makes no sense."""
        now = datetime.now(ZoneInfo(self.policy.timezone))
        by = tuple(query.get("by", "tier").split(","))
        try:
            asked = window(query.get("since", "24h"), query.get("until"), now)
            if len(asked.hours) > self.policy.ledger.rollups / timedelta(hours=1) + 1:
                raise ValueError(f"the window is longer than the {show(self.policy.ledger.rollups)} that are kept")
            asked = asked.over_days(await self._store.whole_days_before())
            sums = await read_store(self._store, asked.hours, self._settings.data_dir / JOURNAL_NAME)
            return as_json(report(sums, asked, by))
        except ValueError as error:
            raise RequestError(400, "invalid_query", f"{error}.") from error
        except StoreAway as error:
            raise RequestError(503, "store_away", f"The store is away: {error}.") from error

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        self._telemetry.ready("store", self._store.ready)
        self._telemetry.ready("classifier", self.pipeline.reader.looks == "full")
        self._telemetry.ready("policy", not self._policy_problem)
        return self._telemetry.exposition()

    async def close(self) -> None:
        """Stop serving this policy; what is in flight has ended by now."""
        for retiring in tuple(self._retiring):
            retiring.cancel()
        await self.pipeline.close()
        await self._ledger.counting.close()
        self._telemetry.share()
