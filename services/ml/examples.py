"""Labelled payments that a model learns from and is measured on: vectors in order of time, labels, others' scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.ml import features
from services.ml.history import Case, Payment, replay

Judge = Callable[[Case], float]
"""Scores a payment by what was known before it, 0 to 1; from 0.5 it flags it. What a model has to beat."""

UNREMARKABLE = "normal"
"""The label of payments that should pass. What a model predicts is that a payment has another one."""


class Labelled(NamedTuple):
    """A payment and how it was judged afterwards."""

    payment: Payment
    label: str
    pattern: str
    """Empty for normal ones."""


@dataclass(frozen=True, slots=True)
class Examples:
    """n payments in order of time; all arrays have length n, `vectors` is n x features."""

    at: NDArray[np.int64]
    vectors: NDArray[np.float64]
    labels: NDArray[np.str_]
    patterns: NDArray[np.str_]
    judged: Mapping[str, NDArray[np.float64]]
    """Scores of the judges, by their names."""

    @classmethod
    def of(cls, labelled: Iterable[Labelled], judges: Mapping[str, Judge] | None = None) -> Examples:
        """Replays `labelled` (in order of time, since the beginning): vectors and scores know only what was before.

        Raises ValueError if they are out of order.
        """
        seen: list[tuple[str, str]] = []

        def payments() -> Iterator[Payment]:
            for payment, label, pattern in labelled:
                seen.append((label, pattern))
                yield payment

        at: list[int] = []
        vectors: list[list[float]] = []
        scores: dict[str, list[float]] = {name: [] for name in judges or {}}
        for case in replay(payments()):
            at.append(case.payment.at)
            vectors.append(features.vector(case.payment, case.history))
            for name, judge in (judges or {}).items():
                scores[name].append(judge(case))
        return cls(
            at=np.array(at, dtype=np.int64),
            vectors=np.array(vectors, dtype=np.float64).reshape(len(at), len(features.NAMES)),
            labels=np.array([label for label, _ in seen], dtype=np.str_),
            patterns=np.array([pattern for _, pattern in seen], dtype=np.str_),
            judged={name: np.array(values, dtype=np.float64) for name, values in scores.items()},
        )

    def __len__(self) -> int:
        return len(self.at)

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Which of them should have been flagged."""
        return np.asarray(self.labels != UNREMARKABLE)

    def between(self, since: int | None, until: int | None) -> Examples:
        """Those from `since` on and before `until` (microseconds; None: no bound)."""
        start = 0 if since is None else int(np.searchsorted(self.at, since))
        end = len(self) if until is None else int(np.searchsorted(self.at, until))
        chosen: Any = slice(start, max(start, end))
        return Examples(
            self.at[chosen],
            self.vectors[chosen],
            self.labels[chosen],
            self.patterns[chosen],
            {name: scores[chosen] for name, scores in self.judged.items()},
        )
