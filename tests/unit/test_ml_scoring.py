"""Scoring: within the budget, with the promoted model, and on with the last good one when a newer is broken."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from services.ml import features
from services.ml.errors import BudgetExceededError, NoModelError
from services.ml.history import Case, replay
from services.ml.model import Classifier
from services.ml.scoring import Scorer
from services.ml.store import Store
from services.ml.training import Training, train
from tests.unit.ml_payments import KEY, labelled, year

PATIENT_MS = 20_000


@pytest.fixture(scope="module")
def training() -> Training:
    return train(year())


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return list(replay(one.payment for one in labelled(4000)))[-200:]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models", KEY)


@pytest.fixture
async def scorer(store: Store) -> AsyncIterator[Scorer]:
    made = Scorer(store, budget_ms=PATIENT_MS)
    yield made
    await made.aclose()


def promoted(store: Store, training: Training) -> str:
    version = store.add(training.classifier.to_bytes(), training.findings).version
    store.switch(version, expected=store.pointer())
    return version


async def test_scores_are_those_that_were_measured(
    store: Store, scorer: Scorer, training: Training, cases: list[Case]
) -> None:
    version = promoted(store, training)
    assert scorer.refresh()
    scores = await asyncio.gather(*(scorer.score(*case) for case in cases))
    measured = training.classifier.probabilities(year().vectors[-len(cases) :])
    assert [score.probability for score in scores] == measured.tolist()
    assert [score.flagged for score in scores] == (measured >= training.findings.threshold).tolist()
    assert {score.version for score in scores} == {version}
    assert all(0 < score.milliseconds < PATIENT_MS for score in scores)


async def test_without_a_promoted_model_there_is_no_score(
    store: Store, scorer: Scorer, training: Training, cases: list[Case]
) -> None:
    store.add(training.classifier.to_bytes(), training.findings)
    assert not scorer.refresh()
    with pytest.raises(NoModelError, match="no model was promoted yet"):
        await scorer.score(*cases[0])
    assert scorer.status.manifest is None


async def test_a_promotion_by_another_process_is_noticed(
    store: Store, scorer: Scorer, training: Training, cases: list[Case]
) -> None:
    first = promoted(store, training)
    watching = asyncio.create_task(scorer.watch(0.01))
    try:
        await _until(lambda: _version(scorer) == first)
        second = promoted(Store(store.folder, KEY), training)
        await _until(lambda: _version(scorer) == second)
        assert (await scorer.score(*cases[0])).version == second
        Store(store.folder, KEY).rollback()
        await _until(lambda: _version(scorer) == first)
    finally:
        watching.cancel()


async def test_a_broken_newer_model_is_reported_and_the_good_one_goes_on(
    store: Store, scorer: Scorer, training: Training, cases: list[Case]
) -> None:
    good = promoted(store, training)
    scorer.refresh()
    before = await scorer.score(*cases[0])
    newer = promoted(store, training)
    path = store.folder / "versions" / newer / "model.pickle"
    content = path.read_bytes()
    path.write_bytes(content[:-1])

    assert not scorer.refresh()
    assert _version(scorer) == good
    assert newer in scorer.status.problem
    after = await scorer.score(*cases[0])
    assert (after.probability, after.version) == (before.probability, good)

    path.write_bytes(content)
    assert scorer.refresh(), "a file that was restored is found without a new promotion"
    assert (_version(scorer), scorer.status.problem) == (newer, "")


async def test_a_pointer_that_is_lost_or_tampered_with_stops_nothing(
    store: Store, scorer: Scorer, training: Training, cases: list[Case]
) -> None:
    version = promoted(store, training)
    scorer.refresh()
    pointer = store.folder / "current.json"
    content = pointer.read_bytes()
    pointer.write_bytes(content.replace(version.encode(), b"20250101T000000Z-00000000"))
    assert not scorer.refresh()
    assert "current.json" in scorer.status.problem
    pointer.unlink()
    assert not scorer.refresh()
    assert scorer.status.problem == "no model was promoted yet"
    assert (await scorer.score(*cases[0])).version == version
    pointer.write_bytes(content)
    assert not scorer.refresh(), "it is the model that is loaded"
    assert scorer.status.problem == ""


class Slow:
    """An estimator that takes its time, as one does on a machine that has none."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.rows: list[int] = []

    def predict_proba(self, vectors: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds)
        self.rows.append(len(vectors))
        return np.full((len(vectors), 2), 0.5)


async def test_a_score_that_is_late_is_given_up_and_nothing_piles_up(
    store: Store, scorer: Scorer, training: Training, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(store, training)
    slow = Slow(0.4)
    monkeypatch.setattr(Classifier, "from_bytes", lambda _: Classifier(slow))
    scorer.refresh()
    slow.rows.clear()

    async def late(case: Case) -> float:
        started = time.perf_counter()
        with pytest.raises(BudgetExceededError, match="within 50 ms"):
            await scorer.score(*case, budget_ms=50)
        return time.perf_counter() - started

    first = asyncio.create_task(late(cases[0]))
    await asyncio.sleep(0.01)
    waits = [await first, *await asyncio.gather(*(late(case) for case in cases))]
    assert max(waits) < 0.4
    assert (await scorer.score(*cases[0])).probability == 0.5
    assert slow.rows == [1, 1], "payments were scored that nobody waited for any more"


async def test_an_error_of_the_model_reaches_everybody_who_waits(
    store: Store, scorer: Scorer, training: Training, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(store, training)
    scorer.refresh()
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "probabilities", lambda *_: 1 / 0)
        answers = await asyncio.gather(*(scorer.score(*case) for case in cases[:5]), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ZeroDivisionError] * 5
    assert 0 <= (await scorer.score(*cases[0])).probability <= 1


async def test_callers_at_once_share_the_work(
    store: Store, scorer: Scorer, training: Training, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(store, training)
    slow = Slow(0.05)
    monkeypatch.setattr(Classifier, "from_bytes", lambda _: Classifier(slow))
    scorer.refresh()
    slow.rows.clear()
    await asyncio.gather(*(scorer.score(*case) for case in cases))
    assert sum(slow.rows) == len(cases)
    assert len(slow.rows) <= 2


async def test_models_change_under_callers_without_an_error(
    store: Store, scorer: Scorer, training: Training, cases: list[Case]
) -> None:
    versions = {promoted(store, training)}
    scorer.refresh()
    ended = threading.Event()

    def promote_and_load() -> None:
        for _ in range(5):
            versions.add(promoted(store, training))
            scorer.refresh()
        ended.set()

    seen = set()
    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(promote_and_load)
        while not ended.is_set() and not changing.done():
            seen |= {score.version for score in await asyncio.gather(*(scorer.score(*case) for case in cases[:20]))}
    changing.result()
    assert seen <= versions
    assert (await scorer.score(*cases[0])).version == store.pointer().version  # type: ignore[union-attr]


def test_the_vector_that_is_tried_at_loading_fits_the_features(training: Training) -> None:
    with pytest.raises(ValueError, match="features"):
        training.classifier.probabilities([[0.0] * (len(features.NAMES) + 1)])


def _version(scorer: Scorer) -> str | None:
    manifest = scorer.status.manifest
    return manifest.version if manifest else None


async def _until(happened: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
