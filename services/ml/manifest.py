"""What is written down about a model: where it comes from, what it was measured at, and the seal that proves it."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
from importlib import metadata
from typing import Any

from pydantic import BaseModel, ConfigDict

from services.ml import features
from services.ml.errors import IncompatibleError, ModelError, TamperedError

BINS = 10
"""Bins of equal width in which predicted and real shares are compared."""

SHORTEST_KEY = 16
"""Bytes. A shorter key could be guessed."""


class Metrics(BaseModel):
    """Figures of one scorer on one set of payments, at one threshold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    flagged: int
    """How many of the rows should be flagged."""
    threshold: float
    precision: float
    """Share of what it flags that should be; 0 if it flags nothing."""
    recall: float
    """Share of what should be flagged that it flags."""
    pr_auc: float
    """Area under the precision-recall curve (average precision). A constant score has the share of flagged rows."""
    brier: float | None = None
    """Mean squared error of the probability; None for scores that are not meant as one."""
    calibration_error: float | None = None
    """Mean distance between predicted and real share over BINS bins, weighted by their rows (ECE)."""
    recall_by_label: dict[str, float]
    recall_by_pattern: dict[str, float]


class Window(BaseModel):
    """The three parts in time: trained up to calibrate_from, calibrated up to test_from, measured up to (with) end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    begin: dt.datetime
    calibrate_from: dt.datetime
    test_from: dt.datetime
    end: dt.datetime


class Findings(BaseModel):
    """What a training found out, and with what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features_version: int
    features_fingerprint: str
    libraries: dict[str, str]
    window: Window
    rows: dict[str, int]
    """By part: train, calibrate, test."""
    random_seed: int
    threshold: float
    """From this probability on, the model flags a payment."""
    metrics: Metrics
    """On the test part, which no step of the training saw."""
    baselines: dict[str, Metrics]
    """Of the same payments."""


class Manifest(Findings):
    """All about one stored model. Times are UTC."""

    version: str
    created_at: dt.datetime
    model_sha256: str

    def check_compatible(self) -> None:
        """Raises IncompatibleError if this process would score with the model differently than it was measured."""
        if self.features_fingerprint != features.fingerprint():
            raise IncompatibleError(
                f"model {self.version} was trained on features of version {self.features_version}, here is "
                f"{features.VERSION}",
                remedy="train anew",
            )
        made_by, here = self.libraries.get("scikit-learn"), libraries()["scikit-learn"]
        if made_by != here:
            raise IncompatibleError(
                f"model {self.version} was made by scikit-learn {made_by}, here is {here}: it may not be read right",
                remedy="train anew, or install the version that made it",
            )


def libraries() -> dict[str, str]:
    """The versions here of what a stored model depends on; imports none of it."""
    return {name: metadata.version(name) for name in ("scikit-learn", "numpy")}


class Seal:
    """Marks content as ours with HMAC-SHA-256, and refuses what is not. Its repr does not show the key."""

    def __init__(self, key: str) -> None:
        """Raises ModelError for a key that is missing or short."""
        self._key = key.encode()
        if len(self._key) < SHORTEST_KEY:
            raise ModelError(
                f"the key that seals models has {len(self._key)} bytes: at least {SHORTEST_KEY} are needed",
                remedy="take it from the secrets of the stack",
            )

    def close(self, kind: str, content: dict[str, Any]) -> bytes:
        """`content` as JSON with its seal. Content of one kind is never taken for another."""
        sealed = {"content": content, "seal": self._digest(kind, content)}
        return json.dumps(sealed, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"

    def open(self, kind: str, data: bytes, name: str) -> dict[str, Any]:
        """What `close` was given. Raises TamperedError; `name` is for its message."""
        try:
            sealed = json.loads(data)
            content, seal = sealed["content"], sealed["seal"]
            genuine = isinstance(content, dict) and hmac.compare_digest(self._digest(kind, content), seal)
        except (ValueError, KeyError, TypeError, RecursionError):
            genuine, content = False, {}
        if not genuine:
            raise TamperedError(
                f"{name} is not as it was sealed, or was sealed with another key",
                remedy="restore the file and the key from your backup, or train anew",
            )
        return dict(content)

    def _digest(self, kind: str, content: dict[str, Any]) -> str:
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hmac.new(self._key, f"shopfds ml {kind}\n{canonical}".encode(), hashlib.sha256).hexdigest()
