"""Which model scores: a candidate takes over only if it is not worse on payments that neither model learned from."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from services.ml import model
from services.ml.errors import ArtefactError, NotBetterError, TamperedError
from services.ml.examples import Examples
from services.ml.history import EPOCH, MICROSECOND
from services.ml.manifest import Manifest
from services.ml.metrics import average_precision
from services.ml.model import Model
from services.ml.store import Pointer, Store
from services.ml.training import FEWEST

TOLERANCE = 0.01
"""How much smaller the area under the precision-recall curve may be, so that chance alone does not keep a new model
out, and one that knows newer payments gets in."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The areas under the precision-recall curve on the same payments, from `since` on."""

    since: dt.datetime
    rows: int
    candidate: float
    current: float


@dataclass(frozen=True, slots=True)
class Promotion:
    """A promotion that happened. `note` says why nothing was compared, where that is so."""

    version: str
    former: str | None
    comparison: Comparison | None
    note: str = ""


def promote(
    store: Store, version: str, examples: Examples, *, tolerance: float = TOLERANCE, force: bool = False
) -> Promotion:
    """Make `version` the promoted model, if it is not worse than the promoted one by more than `tolerance`.

    `examples` are all labelled payments; compared is on those after both models' training and calibration. Where the
    promoted model cannot be loaded, or there is none, the candidate must beat chance. `force` compares nothing.

    Raises NotBetterError, ChangedMeanwhileError, UnknownVersionError, TamperedError, IncompatibleError: nothing was
    changed then.
    """
    candidate = model.load(store, version)
    expected, current, note = _current(store)
    if force:
        note = "forced: nothing was compared"
        comparison = None
    elif current is None:
        comparison = None
        _beats_chance(candidate.manifest)
    elif current.version == version:
        comparison, note = None, "it was promoted already"
    else:
        comparison = compare(candidate, current, examples)
        if comparison.candidate < comparison.current - tolerance:
            raise NotBetterError(
                f"model {version} has a PR-AUC of {comparison.candidate:.4f}, the promoted {current.version} "
                f"{comparison.current:.4f} on the same {comparison.rows} payments: it was not promoted",
                remedy="train on more payments; or promote it anyway with force",
            )
    store.switch(version, expected=expected)
    return Promotion(version, expected.version if expected else None, comparison, note)


def compare(candidate: Model, current: Model, examples: Examples) -> Comparison:
    """Both on the payments that are unseen by both. Raises NotBetterError if these are too few."""
    since = max(candidate.manifest.window.test_from, current.manifest.window.test_from)
    unseen = examples.between((since - EPOCH) // MICROSECOND, None)
    flagged = int(unseen.flagged.sum())
    if min(flagged, len(unseen) - flagged) < FEWEST:
        raise NotBetterError(
            f"{candidate.version} and {current.version} cannot be compared: of {len(unseen)} payments since "
            f"{since:%Y-%m-%d %H:%M:%S}, unseen by both, {flagged} are flagged, and at least {FEWEST} "
            "of either kind are needed",
            remedy="train anew, or promote it anyway with force",
        )
    areas = [average_precision(unseen.flagged, one.probabilities(unseen.vectors)) for one in (candidate, current)]
    return Comparison(since, len(unseen), *areas)


def _current(store: Store) -> tuple[Pointer | None, Model | None, str]:
    try:
        pointer = store.pointer()
    except TamperedError as error:
        return None, None, f"not compared: {error.what}"
    if pointer is None:
        return None, None, "the first one: not compared"
    try:
        return pointer, model.load(store, pointer.version), ""
    except ArtefactError as error:
        return pointer, None, f"not compared: {error.what}"


def _beats_chance(manifest: Manifest) -> None:
    chance = manifest.metrics.flagged / manifest.metrics.rows
    if manifest.metrics.pr_auc <= chance:
        raise NotBetterError(
            f"model {manifest.version} has a PR-AUC of {manifest.metrics.pr_auc:.4f}; tossing coins has {chance:.4f}",
            remedy="train on more payments",
        )
