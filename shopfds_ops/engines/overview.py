"""Both engines side by side: what keeps each from being used, and what of this stack each has; for `shopfds engine`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shopfds_ops.engines import choice, daemon, folders, packages
from shopfds_ops.engines.choice import Name
from shopfds_ops.errors import EngineError
from shopfds_ops.result import Message, Result, Table
from shopfds_ops.settings import VOLUMES, Settings
from shopfds_ops.text import UNKNOWN


@dataclass(frozen=True, slots=True)
class EngineReport:
    """One engine: whether it can be used here, and what it has of this stack."""

    name: Name
    chosen: bool
    obstacle: str
    """What keeps it from being used; "" if nothing does."""
    remedy: str
    versions: Mapping[str, str]
    data: str
    """Where it keeps data, for people."""
    has_data: bool | None
    """None where it cannot be asked."""
    running: Sequence[str] | None
    """Its nodes that run now; None where it cannot be asked."""


def examine(project: Path, settings: Settings) -> Result:
    """The report; exit code 1 if the chosen engine cannot be used, or `auto` cannot choose. Changes nothing."""
    chosen: Name | None
    try:
        chosen, reason = choice.pick(project, settings)
        undecided = None
    except EngineError as error:
        chosen, reason, undecided = None, error.what, error
    reports = [_docker(project, settings, chosen), _local(project, settings, chosen)]
    if undecided is not None:
        messages = [Message("fail", reason, undecided.remedy)]
    else:
        told = next((report.remedy for report in reports if report.obstacle and report.obstacle in reason), "")
        messages = [Message("info", f"engine {chosen}: {reason}", told)]
    for report in reports:
        if report.obstacle and report.obstacle not in reason:
            messages.append(Message("fail" if report.chosen else "skip", report.obstacle, report.remedy))
        elif report.running and chosen is not None and not report.chosen:
            text = f"engine {report.name} runs nodes of this stack, but {chosen} is the one that commands are for"
            messages.append(Message("warning", text, f"`shopfds --engine {report.name} down`"))
    failed = chosen is None or any(report.chosen and report.obstacle for report in reports)
    data = {"chosen": chosen, "reason": reason, "setting": settings.engine, "engines": reports}
    return Result("engine", data, (_table(settings, reports),), tuple(messages), 1 if failed else 0)


def _docker(project: Path, settings: Settings, chosen: Name | None) -> EngineReport:
    found = daemon.look()
    stack = choice.compose_files(project, settings).stack
    return EngineReport(
        name="docker",
        chosen=chosen == "docker",
        obstacle=found.obstacle.what if found.obstacle else "",
        remedy=found.obstacle.remedy if found.obstacle else "",
        versions={name: text for name, text in (("Engine", found.engine), ("Compose", found.compose)) if text},
        data=f"volumes {stack}_*",
        has_data=daemon.has_volumes(stack),
        running=choice.running(project, settings, "docker") if found.engine else None,
    )


def _local(project: Path, settings: Settings, chosen: Name | None) -> EngineReport:
    folder = folders.data_folder(project, settings)
    found = packages.find(packages.major_of_data(folder / VOLUMES))
    return EngineReport(
        name="local",
        chosen=chosen == "local",
        obstacle="; ".join(packages.missing(found)),
        remedy="`shopfds --engine local setup` installs what is missing",
        versions={item.title: found[item.server].text for item in packages.REQUIREMENTS if item.server in found},
        data=str(folder),
        has_data=folders.has_data(folder),
        running=choice.running(project, settings, "local"),
    )


def _table(settings: Settings, reports: Sequence[EngineReport]) -> Table:
    rows = (
        ("usable", *("[FAIL] no" if report.obstacle else "[OK] yes" for report in reports)),
        ("versions", *(", ".join(f"{name} {text}" for name, text in r.versions.items()) or "-" for r in reports)),
        ("has data", *({True: "yes", False: "no", None: UNKNOWN}[report.has_data] for report in reports)),
        ("kept in", *(report.data for report in reports)),
        ("runs now", *(_running_text(report.running) for report in reports)),
    )
    names = tuple(f"{report.name} (chosen)" if report.chosen else report.name for report in reports)
    return Table(f"Engines of '{settings.project}'", ("", *names), rows)


def _running_text(names: Sequence[str] | None) -> str:
    if names is None:
        return UNKNOWN
    return f"{len(names)} nodes" if names else "nothing"
