"""Training: the past teaches, what followed calibrates, the last part measures; nothing sees what comes after it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np

from services.ml import features
from services.ml.errors import TrainingDataError
from services.ml.examples import Examples
from services.ml.history import EPOCH, MICROSECOND
from services.ml.manifest import Findings, Window, libraries
from services.ml.metrics import best_threshold, measure
from services.ml.model import Classifier

TRAIN, CALIBRATE = 0.6, 0.2
"""Shares of the payments, by time; the rest measures."""
FEWEST = 20
"""Payments of either kind in every part: figures from fewer would be noise."""
JUDGE_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Split:
    """Examples in three parts that follow each other in time; no instant is in two."""

    train: Examples
    calibrate: Examples
    test: Examples

    @classmethod
    def by_time(cls, examples: Examples) -> Split:
        """Raises TrainingDataError if a part has fewer than FEWEST payments of either kind."""
        count = len(examples)
        if count == 0:
            raise TrainingDataError("there are no payments to learn from", remedy="`shopfds seed` makes some")
        calibrate_from = int(examples.at[int(count * TRAIN)])
        test_from = int(examples.at[int(count * (TRAIN + CALIBRATE))])
        split = cls(
            train=examples.between(None, calibrate_from),
            calibrate=examples.between(calibrate_from, test_from),
            test=examples.between(test_from, None),
        )
        for name, part in (("train", split.train), ("calibrate", split.calibrate), ("test", split.test)):
            flagged = int(part.flagged.sum())
            if min(flagged, len(part) - flagged) < FEWEST:
                raise TrainingDataError(
                    f"the part to {name} with has {flagged} flagged payments and {len(part) - flagged} normal ones: at "
                    f"least {FEWEST} of both are needed",
                    remedy="wait for more payments, or add some: `shopfds seed --append`",
                )
        return split

    @property
    def window(self) -> Window:
        return Window(
            begin=_time(self.train.at[0]),
            calibrate_from=_time(self.calibrate.at[0]),
            test_from=_time(self.test.at[0]),
            end=_time(self.test.at[-1]),
        )

    @property
    def rows(self) -> dict[str, int]:
        return {"train": len(self.train), "calibrate": len(self.calibrate), "test": len(self.test)}


@dataclass(frozen=True, slots=True)
class Training:
    """A new classifier and what is known about it: together `Store.add` makes a version of them."""

    classifier: Classifier
    findings: Findings


def train(examples: Examples, random_seed: int = 42) -> Training:
    """A classifier, and the figures of it and of the examples' judges on the last part, which it did not see.

    The same examples and seed give the same classifier. Raises TrainingDataError.
    """
    split = Split.by_time(examples)
    classifier = Classifier.fitted(split.train, split.calibrate, random_seed)
    threshold = best_threshold(split.calibrate.flagged, classifier.probabilities(split.calibrate.vectors))
    findings = Findings(
        features_version=features.VERSION,
        features_fingerprint=features.fingerprint(),
        libraries=libraries(),
        window=split.window,
        rows=split.rows,
        random_seed=random_seed,
        threshold=threshold,
        metrics=measure(split.test, classifier.probabilities(split.test.vectors), threshold),
        baselines={
            name: measure(split.test, scores, JUDGE_THRESHOLD, probability=False)
            for name, scores in split.test.judged.items()
        },
    )
    return Training(classifier, findings)


def _time(at: np.int64) -> dt.datetime:
    return EPOCH + int(at) * MICROSECOND
