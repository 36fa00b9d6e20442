"""Training: the past teaches, later payments calibrate and measure, and the figures are what they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ml.errors import TrainingDataError
from services.ml.examples import Examples
from services.ml.metrics import best_threshold, calibration_error, measure
from services.ml.training import FEWEST, Split, Training, train
from tests.unit.ml_payments import year


@pytest.fixture(scope="module")
def training() -> Training:
    return train(year())


def some(truth: list[bool], at: list[int] | None = None) -> Examples:
    labels = np.array(["fraud" if flagged else "normal" for flagged in truth])
    patterns = np.array(["velocity" if flagged else "" for flagged in truth])
    return Examples(np.array(at or range(len(truth))), np.zeros((len(truth), 25)), labels, patterns, {})


@given(st.lists(st.tuples(st.integers(0, 400), st.booleans()), min_size=250, max_size=400))
def test_the_parts_follow_each_other_and_share_no_instant(drawn: list[tuple[int, bool]]) -> None:
    examples = some([flagged for _, flagged in drawn], sorted(at for at, _ in drawn))
    try:
        split = Split.by_time(examples)
    except TrainingDataError:
        return
    assert split.train.at.max() < split.calibrate.at.min()
    assert split.calibrate.at.max() < split.test.at.min()
    assert sum(split.rows.values()) == len(examples)
    for part in (split.train, split.calibrate, split.test):
        assert FEWEST <= part.flagged.sum() <= len(part) - FEWEST


def test_the_same_examples_and_seed_give_the_same_scores(training: Training) -> None:
    again = train(year())
    vectors = year().vectors[-500:]
    assert (training.classifier.probabilities(vectors) == again.classifier.probabilities(vectors)).all()
    assert again.findings == training.findings


def test_the_test_part_has_no_say_in_model_and_threshold(training: Training) -> None:
    examples = year()
    test_from = len(examples) - training.findings.rows["test"]
    labels = examples.labels.copy()
    labels[test_from:] = labels[test_from:][::-1]
    other = train(dataclasses.replace(examples, labels=labels))
    assert other.findings.metrics != training.findings.metrics
    assert other.findings.threshold == training.findings.threshold
    vectors = examples.vectors[test_from:]
    assert (training.classifier.probabilities(vectors) == other.classifier.probabilities(vectors)).all()


def test_labels_that_mean_nothing_are_not_learned() -> None:
    """A model that finds something in shuffled labels has seen them."""
    examples = year()
    shuffled = np.random.default_rng(7).permutation(len(examples))
    found = train(dataclasses.replace(examples, labels=examples.labels[shuffled])).findings.metrics
    assert found.pr_auc < 2 * found.flagged / found.rows


def test_it_beats_nothing_and_the_rules_on_unseen_payments(training: Training) -> None:
    model, rules, nothing = training.findings.metrics, *(training.findings.baselines[n] for n in ("rules", "always no"))
    assert nothing.precision == nothing.recall == 0
    assert nothing.pr_auc == pytest.approx(nothing.flagged / nothing.rows)
    assert model.pr_auc > rules.pr_auc + 0.1 > nothing.pr_auc + 0.2
    assert model.recall > rules.recall + 0.1
    assert model.precision > 0.9
    assert model.calibration_error is not None
    assert model.calibration_error < 0.03


@pytest.mark.parametrize("truth", [[], [False] * 1000, [True] * 1000, [True, False] * 50, [True] * 500 + [False] * 500])
def test_what_cannot_be_learned_from_is_refused(truth: list[bool]) -> None:
    with pytest.raises(TrainingDataError) as refused:
        train(some(truth))
    assert "shopfds seed" in refused.value.remedy


def test_figures_by_hand() -> None:
    found = measure(some([True, True, False, False]), np.array([0.9, 0.4, 0.6, 0.1]), 0.5)
    assert (found.precision, found.recall) == (0.5, 0.5)
    assert found.pr_auc == pytest.approx((1 + 2 / 3) / 2)
    assert found.brier == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)
    assert found.calibration_error == pytest.approx((0.1 + 0.6 + 0.6 + 0.1) / 4)
    assert found.recall_by_label == {"fraud": 0.5}
    assert found.recall_by_pattern == {"velocity": 0.5}


def test_the_threshold_balances_precision_and_recall() -> None:
    truth = np.array([False, False, True, False, True, True])
    assert best_threshold(truth, np.array([0.1, 0.2, 0.3, 0.4, 0.8, 0.9])) == 0.3
    assert best_threshold(truth, np.array([0.1, 0.2, 0.3, 0.95, 0.8, 0.9])) == 0.3


def test_a_calibrated_score_has_no_calibration_error() -> None:
    scores = np.repeat([0.25, 0.75], 1000)
    truth = np.concatenate([np.arange(1000) < 250, np.arange(1000) < 750])
    assert calibration_error(truth, scores) == pytest.approx(0)
    assert calibration_error(~truth, scores) == pytest.approx(0.5)
