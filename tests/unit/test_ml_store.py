"""The store of models: what was tampered with is refused, and no interruption or rival leaves a half."""

from __future__ import annotations

import datetime as dt
import os
import pickle
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ml import features, model, promotion
from services.ml.errors import (
    ArtefactError,
    ChangedMeanwhileError,
    IncompatibleError,
    ModelError,
    NotBetterError,
    TamperedError,
    UnknownVersionError,
)
from services.ml.manifest import Manifest, Seal
from services.ml.store import Pointer, Store
from services.ml.training import Training, train
from tests.unit.ml_payments import KEY, year

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def training() -> Training:
    return train(year())


@pytest.fixture(scope="module")
def data(training: Training) -> bytes:
    return training.classifier.to_bytes()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models", KEY)


@pytest.fixture
def kept(store: Store, training: Training, data: bytes) -> tuple[Store, Manifest]:
    """A store with one version, and that."""
    return store, store.add(data, training.findings)


def states(store: Store) -> dict[str, str]:
    return {listed.version: listed.state for listed in store.versions()}


class Burglar:
    """What a tampered pickle would do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["BURGLARY"],)


def test_a_version_comes_back_as_it_was(store: Store, training: Training, data: bytes) -> None:
    kept = store.add(data, training.findings)
    loaded = model.load(store, kept.version)
    assert loaded.manifest == kept
    assert kept.metrics == training.findings.metrics
    assert kept.created_at.tzinfo is dt.UTC
    vectors = year().vectors[:50]
    assert (loaded.probabilities(vectors) == training.classifier.probabilities(vectors)).all()
    assert states(store) == {kept.version: "candidate"}
    assert store.pointer() is None


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["model.pickle", "manifest.json"]), share=st.floats(0, 1, exclude_max=True), data=st.data())
def test_one_bit_is_enough_to_be_refused(
    kept: tuple[Store, Manifest], name: str, share: float, data: st.DataObject
) -> None:
    store, manifest = kept
    path = store.folder / "versions" / manifest.version / name
    content = path.read_bytes()
    changed = bytearray(content)
    changed[int(share * len(content))] ^= 1 << data.draw(st.integers(0, 7), "bit")
    path.write_bytes(changed)
    try:
        # 1e-05 may become 1E-05, which is the same figure; whatever says something else must be refused.
        assert model.load(store, manifest.version).manifest == manifest
        assert name == "manifest.json"
        assert changed.lower() == content.lower()
    except TamperedError:
        pass
    finally:
        path.write_bytes(content)


def test_a_forged_model_is_refused_before_anything_in_it_runs(
    store: Store, training: Training, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = store.add(data, training.findings).version
    monkeypatch.setenv("BURGLARY", str(tmp_path / "broken in"))
    forged = pickle.dumps(Burglar())
    other = Store(tmp_path / "elsewhere", "a key that the burglar made up")
    theirs = other.add(forged, training.findings).version
    place = store.folder / "versions"
    shutil.copytree(other.folder / "versions" / theirs, place / theirs)
    (place / version / "model.pickle").write_bytes(forged)
    for name in (version, theirs):
        with pytest.raises(TamperedError):
            model.load(store, name)
        with pytest.raises(TamperedError):
            store.switch(name, expected=None)
    assert set(states(store).values()) == {"broken"}
    assert not (tmp_path / "broken in").exists()
    pickle.loads(forged)  # noqa: S301 - as whoever skips the seal would
    assert (tmp_path / "broken in").exists(), "the forgery would not have shown a break-in"


@pytest.mark.parametrize("names", [("model.pickle",), ("manifest.json",), ("model.pickle", "manifest.json")])
def test_files_of_another_version_are_refused(
    store: Store, training: Training, data: bytes, names: tuple[str, ...]
) -> None:
    one, other = (store.add(data + end, training.findings).version for end in (b"", b" "))
    for name in names:
        shutil.copy(store.folder / "versions" / other / name, store.folder / "versions" / one / name)
    with pytest.raises(TamperedError):
        model.load(store, one)


@pytest.mark.parametrize("name", ["model.pickle", "manifest.json"])
def test_a_file_that_is_gone_is_refused(store: Store, training: Training, data: bytes, name: str) -> None:
    version = store.add(data, training.findings).version
    (store.folder / "versions" / version / name).unlink()
    with pytest.raises(TamperedError):
        model.load(store, version)
    [listed] = store.versions()
    assert listed.state == "broken"
    assert name in listed.problem


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b'{"content": 1, "seal": "x"}', b"[" * 100_000, b"\xff"]
)
def test_a_pointer_that_is_not_ours_is_refused(store: Store, training: Training, data: bytes, content: bytes) -> None:
    version = store.add(data, training.findings).version
    (store.folder / "current.json").write_bytes(content)
    with pytest.raises(TamperedError):
        store.pointer()
    promoted = promotion.promote(store, version, year())
    assert "not as it was sealed" in promoted.note
    assert states(store) == {version: "current"}


def test_a_sealed_manifest_is_no_pointer(store: Store, training: Training, data: bytes) -> None:
    version = store.add(data, training.findings).version
    shutil.copy(store.folder / "versions" / version / "manifest.json", store.folder / "current.json")
    with pytest.raises(TamperedError):
        store.pointer()


@pytest.mark.parametrize("key", ["", "short"])
def test_without_a_key_there_is_no_store(tmp_path: Path, key: str) -> None:
    with pytest.raises(ModelError, match="at least 16"):
        Store(tmp_path, key)


def test_another_key_opens_nothing(store: Store, training: Training, data: bytes) -> None:
    version = store.add(data, training.findings).version
    store.switch(version, expected=None)
    stranger = Store(store.folder, "quite another key for tests")
    with pytest.raises(TamperedError):
        stranger.pointer()
    with pytest.raises(TamperedError):
        model.load(stranger, version)


@pytest.mark.parametrize("version", ["", "..", "../models", "20250101T000000Z-00000000", "/etc", "a\0b"])
def test_an_unknown_version_is_named(store: Store, version: str) -> None:
    with pytest.raises(UnknownVersionError, match="there is no model"):
        model.load(store, version)


def test_a_model_for_other_features_or_libraries_is_refused(
    store: Store, training: Training, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = training.findings.model_copy(update={"libraries": {"scikit-learn": "0.1"}})
    with pytest.raises(IncompatibleError, match=r"scikit-learn 0\.1"):
        model.load(store, store.add(data, old).version)
    version = store.add(data, training.findings).version
    monkeypatch.setattr(features, "VERSION", features.VERSION + 1)
    with pytest.raises(IncompatibleError, match="features of version 1, here is 2"):
        model.load(store, version)


def test_a_sealed_model_that_does_not_work_is_refused(store: Store, training: Training) -> None:
    version = store.add(pickle.dumps("not a model"), training.findings).version
    with pytest.raises(ArtefactError, match="does not work"):
        model.load(store, version)


def test_promote_and_roll_back(store: Store, training: Training, data: bytes) -> None:
    one, two, three = (store.add(data, training.findings).version for _ in range(3))
    assert promotion.promote(store, one, year()).former is None
    second = promotion.promote(store, two, year())
    assert second.former == one
    assert second.comparison is not None
    assert second.comparison.candidate == second.comparison.current == pytest.approx(training.findings.metrics.pr_auc)
    assert second.comparison.rows == training.findings.rows["test"]
    assert promotion.promote(store, three, year()).former == two
    assert states(store) == {one: "former", two: "former", three: "current"}
    assert store.rollback().version == two
    assert states(store) == {one: "former", two: "current", three: "candidate"}
    assert promotion.promote(store, one, year()).former == two
    assert store.rollback().version == two
    with pytest.raises(UnknownVersionError):
        store.rollback()
    assert states(store)[two] == "current"


def test_a_rollback_to_what_is_broken_changes_nothing(store: Store, training: Training, data: bytes) -> None:
    one, two = (store.add(data, training.findings).version for _ in range(2))
    for version in (one, two):
        promotion.promote(store, version, year())
    (store.folder / "versions" / one / "model.pickle").write_bytes(b"")
    with pytest.raises(TamperedError):
        store.rollback()
    assert states(store) == {one: "broken", two: "current"}


def test_a_worse_model_is_not_promoted_unless_forced(store: Store, training: Training, data: bytes) -> None:
    examples = year()
    blind = train(type(examples)(examples.at, np.zeros_like(examples.vectors), examples.labels, examples.patterns, {}))
    good = store.add(data, training.findings).version
    bad = store.add(blind.classifier.to_bytes(), blind.findings).version
    with pytest.raises(NotBetterError, match="tossing coins"):
        promotion.promote(store, bad, examples)
    promotion.promote(store, good, examples)
    with pytest.raises(NotBetterError, match="not promoted"):
        promotion.promote(store, bad, examples)
    assert states(store) == {good: "current", bad: "candidate"}
    assert promotion.promote(store, bad, examples, tolerance=1).comparison is not None
    assert promotion.promote(store, good, examples).former == bad
    assert promotion.promote(store, bad, examples, force=True).note == "forced: nothing was compared"
    assert states(store)[bad] == "current"


def test_models_are_compared_only_where_both_are_blind(store: Store, training: Training, data: bytes) -> None:
    one = store.add(data, training.findings).version
    window = training.findings.window.model_copy(update={"test_from": training.findings.window.end})
    late = store.add(data, training.findings.model_copy(update={"window": window})).version
    promotion.promote(store, one, year())
    with pytest.raises(NotBetterError, match="cannot be compared"):
        promotion.promote(store, late, year())


def test_a_promotion_that_somebody_overtook_changes_nothing(store: Store, training: Training, data: bytes) -> None:
    one, two = (store.add(data, training.findings).version for _ in range(2))
    before = store.switch(one, expected=None)
    after = store.switch(two, expected=before)
    with pytest.raises(ChangedMeanwhileError, match=two):
        store.switch(one, expected=before)
    assert store.pointer() == after


def test_many_writers_at_once_lose_nothing(store: Store, training: Training, data: bytes) -> None:
    def work(_: int) -> str:
        version = store.add(data, training.findings).version
        while True:
            try:
                store.switch(version, expected=store.pointer())
            except ChangedMeanwhileError:
                continue
            return version

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(work, range(16)))
    pointer = store.pointer()
    assert pointer is not None
    assert {pointer.version, *pointer.former} == made == set(states(store))
    assert "broken" not in states(store).values()


@pytest.mark.parametrize("action", ["add", "switch", "rollback"])
def test_killed_after_any_step_on_the_disk_the_store_is_whole(
    store: Store, training: Training, data: bytes, action: str
) -> None:
    small = training.findings
    one, two, three = (store.add(data, small).version for _ in range(3))
    start = store.switch(two, expected=store.switch(one, expected=None))
    ended = {"add": two, "switch": three, "rollback": one}[action]
    killed = 0
    for step in range(1, 100):
        done = subprocess.run(
            [sys.executable, "-m", "tests.unit.ml_writer", str(store.folder), KEY, action, three, str(step)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        found = store.pointer()
        assert found is not None
        assert "broken" not in states(store).values()
        assert {one, two, three} <= states(store).keys()
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1
        assert found.version in (two, ended)
        if found != start:
            # It had happened already when the process died: go back to where each try begins.
            (store.folder / "current.json").write_bytes(Seal(KEY).close("pointer", _content(start)))
    assert killed >= 8
    assert found.version == ended
    store.add(data, small)
    assert not list(store.folder.glob(".new-*"))


def _content(pointer: Pointer) -> dict[str, object]:
    return asdict(pointer) | {"former": list(pointer.former)}
