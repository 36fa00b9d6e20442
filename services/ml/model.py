"""A trained model in memory: probabilities for vectors; as bytes for the store and back."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.frozen import FrozenEstimator

from services.ml import features
from services.ml.errors import ArtefactError
from services.ml.examples import Examples
from services.ml.manifest import Manifest
from services.ml.store import Store

Vectors = NDArray[np.float64] | Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Classifier:
    """Gradient-boosted trees whose scores were calibrated on later payments than they learned from."""

    estimator: Any

    @classmethod
    def fitted(cls, train: Examples, calibrate: Examples, random_seed: int) -> Classifier:
        """Learns from one part and calibrates on the other; the same input gives the same classifier.

        Flagged payments are rare: while learning, both kinds weigh the same; the calibration then brings the scores
        back to real shares. It is a sigmoid, which keeps their order; steps (isotonic) would make ties of them.
        """
        trees = HistGradientBoostingClassifier(
            max_iter=150,
            learning_rate=0.08,
            max_leaf_nodes=15,
            categorical_features=[features.NAMES.index(name) for name in features.CATEGORIES],
            class_weight="balanced",
            early_stopping=False,
            random_state=random_seed,
        )
        trees.fit(train.vectors, train.flagged)
        calibrated = CalibratedClassifierCV(FrozenEstimator(trees), method="sigmoid")
        return cls(calibrated.fit(calibrate.vectors, calibrate.flagged))

    def probabilities(self, vectors: Vectors) -> NDArray[np.float64]:
        """The probability that each payment should be flagged."""
        return np.asarray(self.estimator.predict_proba(np.asarray(vectors, dtype=np.float64))[:, 1])

    def to_bytes(self) -> bytes:
        """For the store."""
        return pickle.dumps(self.estimator, protocol=5)

    @classmethod
    def from_bytes(cls, data: bytes) -> Classifier:
        """What `to_bytes` gave. Runs what is in it: only for bytes whose seal was proved."""
        return cls(pickle.loads(data))  # noqa: S301 - see above


@dataclass(frozen=True, slots=True)
class Model:
    """A classifier and what is known about it."""

    classifier: Classifier
    manifest: Manifest

    @property
    def version(self) -> str:
        return self.manifest.version

    def probabilities(self, vectors: Vectors) -> NDArray[np.float64]:
        """See Classifier."""
        return self.classifier.probabilities(vectors)


def load(store: Store, version: str) -> Model:
    """A stored model, after its seal was proved, and after it scored something once.

    Raises UnknownVersionError, TamperedError, IncompatibleError, ArtefactError.
    """
    manifest, data = store.read(version)
    try:
        classifier = Classifier.from_bytes(data)
        classifier.probabilities([[0.0] * len(features.NAMES)])
    except Exception as error:
        raise ArtefactError(
            f"model {version} is sealed, but does not work here: {error!r}", remedy="train anew"
        ) from error
    return Model(classifier, manifest)
