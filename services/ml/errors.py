"""The errors of the model service: each says what is wrong with which version, and what to do about it."""

from __future__ import annotations


class ModelError(Exception):
    """Something the caller can act on; `remedy` says how."""

    def __init__(self, what: str, *, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


class TrainingDataError(ModelError):
    """The payments cannot be learned from: too few, or of one kind only. Nothing was stored."""


class ArtefactError(ModelError):
    """An artefact that must not be loaded."""


class TamperedError(ArtefactError):
    """Model, manifest or pointer are not as they were sealed (or not sealed with this key): nothing was unpickled."""


class IncompatibleError(ArtefactError):
    """Well sealed, but made for other features or by another scikit-learn than this process has."""


class UnknownVersionError(ModelError):
    """No artefact has this version, or there is none to go back to."""


class NotBetterError(ModelError):
    """The candidate is worse than the promoted model, or cannot be compared with it: nothing was changed."""


class ChangedMeanwhileError(ModelError):
    """Somebody else promoted or rolled back in between: nothing was changed."""


class NoModelError(ModelError):
    """No model is loaded: nobody promoted one yet, or the promoted one was refused before any other was loaded."""


class BudgetExceededError(ModelError):
    """The score was not there in time. Its caller decides without it."""
