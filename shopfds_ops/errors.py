"""The errors ShopFDS raises on purpose: each says what happened, to whom, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ShopfdsError(Exception):
    """Something the operator can act on. `remedy` is a command or an action; `exit_code` follows the CLI's contract."""

    exit_code = 1

    def __init__(self, what: str, *, remedy: str = "", details: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.details = details


class UsageError(ShopfdsError):
    """The request itself is wrong (bad value, unknown name): nothing was changed. Exit code 2."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A component, node, step or key that does not exist; suggests the nearest one that does."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(set(known))
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        remedy = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
        super().__init__(f"there is no {kind} '{name}'", remedy=remedy)


class ConfigError(UsageError):
    """A setting that does not exist, has the wrong type, or contradicts another one."""


class SecretsError(ShopfdsError):
    """`.env` is missing a secret that existing data was made with, or cannot be read."""


class RenderError(ShopfdsError):
    """A template that cannot be rendered, or a rendered file that someone edited by hand."""


class EngineError(ShopfdsError):
    """The engine could not do what was asked: a missing binary, a taken port, a node that will not run."""


class PortTakenError(EngineError):
    """A port that a node needs belongs to another process."""


class NotRunningError(EngineError):
    """Something that must be running for this command is not."""


class StepError(ShopfdsError):
    """A step of initialization failed, or could not be verified after it was applied."""


class DataError(ShopfdsError):
    """The data refuses the request: a filled database, a constraint, an import with bad lines."""


class RefusedError(ShopfdsError):
    """The operator said no, or a destructive command was not confirmed."""
