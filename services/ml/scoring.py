"""Scoring: the promoted model answers within its budget; a broken newer one is reported and does not replace it."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from threadpoolctl import threadpool_limits

from services.ml import features, model
from services.ml.errors import BudgetExceededError, ModelError, NoModelError
from services.ml.history import History, Payment
from services.ml.manifest import Manifest
from services.ml.model import Model
from services.ml.store import Stamp, Store

BUDGET_MS = 50.0
CHECK_SECONDS = 1.0
MOST_AT_ONCE = 256
"""Payments that are scored in one go: scoring many takes hardly longer than scoring one."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Score:
    """The answer for one payment."""

    probability: float
    """That the payment should be flagged, 0 to 1, calibrated."""
    flagged: bool
    """Whether it reaches the model's own threshold."""
    version: str
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Status:
    """What the scorer works with. `problem` says why it is not the promoted model, or why there is none."""

    manifest: Manifest | None
    loaded_at: dt.datetime | None
    problem: str


@dataclass(frozen=True, slots=True)
class _Waiting:
    vector: list[float]
    answer: asyncio.Future[tuple[float, Model]]


class Scorer:
    """Scores with the promoted model of a store. `score` belongs to one event loop; `refresh` to any thread."""

    def __init__(self, store: Store, *, budget_ms: float = BUDGET_MS) -> None:
        self._store = store
        self._budget = budget_ms / 1000
        self._model: Model | None = None
        self._loaded_at: dt.datetime | None = None
        self._problem = "no model was promoted yet"
        self._stamp: Stamp = None
        self._refreshing = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._working: asyncio.Task[None] | None = None
        # One thread, and one of OpenMP's in it: for so little work at a time, more would only wait for each other.
        self._thread = ThreadPoolExecutor(1, "ml-score", initializer=lambda: threadpool_limits(1, "openmp"))

    @property
    def status(self) -> Status:
        return Status(self._model.manifest if self._model else None, self._loaded_at, self._problem)

    def refresh(self) -> bool:
        """Load the promoted model if another one is promoted now; returns whether a model was loaded.

        What cannot be loaded is reported in `status` and in the log, and the model so far goes on. Blocks for the
        time of loading, not the scoring.
        """
        with self._refreshing:
            stamp = self._store.stamp()
            if stamp == self._stamp and (stamp is None or not self._problem):
                return False
            try:
                found = self._load()
            except ModelError as error:
                if error.what != self._problem:
                    log.error("the promoted model was refused", extra={"problem": error.what})
                self._problem, self._stamp = error.what, stamp
                return False
            self._problem, self._stamp = "", stamp
            if found is None:
                return False
            self._model, self._loaded_at = found, dt.datetime.now(dt.UTC)
            log.info("a model was loaded", extra={"version": found.version})
            return True

    async def watch(self, seconds: float = CHECK_SECONDS) -> None:
        """Refresh for ever, every so many seconds: a background task of the service."""
        while True:
            await asyncio.to_thread(self.refresh)
            await asyncio.sleep(seconds)

    async def score(self, payment: Payment, history: History, *, budget_ms: float | None = None) -> Score:
        """The score of one payment, given what was known before it.

        Raises NoModelError, and BudgetExceededError when it is not there in time (None: the scorer's own budget).
        """
        started = time.perf_counter()
        self._loaded()
        answer: asyncio.Future[tuple[float, Model]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(features.vector(payment, history), answer))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        budget = self._budget if budget_ms is None else budget_ms / 1000
        try:
            probability, used = await asyncio.wait_for(answer, budget)
        except TimeoutError:
            raise BudgetExceededError(f"no score within {budget * 1000:g} ms", remedy="decide without it") from None
        return Score(
            probability=probability,
            flagged=probability >= used.manifest.threshold,
            version=used.version,
            milliseconds=(time.perf_counter() - started) * 1000,
        )

    async def aclose(self) -> None:
        """Let what is being scored end, and the thread with it."""
        if self._working is not None:
            await asyncio.wait([self._working])
        self._thread.shutdown(wait=False)

    async def _work(self) -> None:
        """Score what waits, all at once, until nothing waits. Those whose caller gave up are left out."""
        loop = asyncio.get_running_loop()
        while batch := self._waiting[:MOST_AT_ONCE]:
            del self._waiting[: len(batch)]
            asked = [waiting for waiting in batch if not waiting.answer.done()]
            if not asked:
                continue
            try:
                used = self._loaded()
                scores = await loop.run_in_executor(self._thread, used.probabilities, [one.vector for one in asked])
            except Exception as error:
                _answer_all(asked, error)
                continue
            for waiting, score in zip(asked, scores, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result((float(score), used))

    def _loaded(self) -> Model:
        if self._model is None:
            raise NoModelError(self._problem, remedy="`shopfds ml train` makes and promotes one")
        return self._model

    def _load(self) -> Model | None:
        """The promoted model, tried once; None if it is the one that is in use."""
        pointer = self._store.pointer()
        if pointer is None:
            raise NoModelError("no model was promoted yet")
        if self._model is not None and self._model.version == pointer.version:
            return None
        return model.load(self._store, pointer.version)


def _answer_all(asked: list[_Waiting], error: Exception) -> None:
    for waiting in asked:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)
