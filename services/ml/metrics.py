"""How good scores are on payments that had no part in making them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss, precision_recall_curve

from services.ml.examples import UNREMARKABLE, Examples
from services.ml.manifest import BINS, Metrics


def measure(examples: Examples, scores: NDArray[np.float64], threshold: float, *, probability: bool = True) -> Metrics:
    """The figures of `scores` (0 to 1, one per example); from `threshold` on a payment is flagged.

    There must be at least one example that should be flagged, and one that should not.
    """
    truth, raised = examples.flagged, scores >= threshold
    hits = int(np.sum(raised & truth))
    return Metrics(
        rows=len(examples),
        flagged=int(truth.sum()),
        threshold=threshold,
        precision=hits / max(1, int(raised.sum())),
        recall=hits / int(truth.sum()),
        pr_auc=average_precision(truth, scores),
        brier=float(brier_score_loss(truth, scores)) if probability else None,
        calibration_error=calibration_error(truth, scores) if probability else None,
        recall_by_label=_recalls(examples.labels, raised, UNREMARKABLE),
        recall_by_pattern=_recalls(examples.patterns, raised, ""),
    )


def average_precision(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """The area under the precision-recall curve."""
    return float(average_precision_score(truth, scores))


def best_threshold(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """The score from which on flagging has the best F1: as good a balance of precision and recall as there is."""
    precision, recall, thresholds = precision_recall_curve(truth, scores)
    both = precision[:-1] + recall[:-1]
    balance = np.divide(2 * precision[:-1] * recall[:-1], both, out=np.zeros_like(both), where=both > 0)
    return float(thresholds[int(balance.argmax())])


def calibration_error(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """The expected calibration error, 0 to 1: 0.02 means that predicted shares are off by two points on average."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    distances = (
        np.sum(bins == number) * abs(float(truth[bins == number].mean()) - float(scores[bins == number].mean()))
        for number in np.unique(bins)
    )
    return float(sum(distances)) / len(scores)


def _recalls(groups: NDArray[np.str_], raised: NDArray[np.bool_], left_out: str) -> dict[str, float]:
    return {str(group): float(raised[groups == group].mean()) for group in np.unique(groups) if str(group) != left_out}
