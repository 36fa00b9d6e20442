"""Checks of the machine, the settings, the secrets and what is left over; each finding with its remedy."""

from __future__ import annotations

import datetime as dt
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg

from shopfds_ops import secrets
from shopfds_ops.components import postgres
from shopfds_ops.engines import packages, ports
from shopfds_ops.engines.local import data_folder
from shopfds_ops.errors import ShopfdsError
from shopfds_ops.result import Level, Message, Result, Table
from shopfds_ops.stack import Stack

DISK_WARNING = 2 * 2**30
DISK_FAIL = 512 * 2**20
FILE_LIMIT = 4096
CLOCK_TOLERANCE_SECONDS = 1.0


def examine(stack: Stack) -> Result:
    """Run every check; exit code 1 if one of them fails. Nothing is changed."""
    findings: list[tuple[str, Message]] = []
    for title, check in (
        ("servers", _servers),
        ("folders", _folders),
        ("disk", _disk),
        ("memory", _memory),
        ("file limit", _files),
        ("ports", _ports),
        ("secrets", _secrets),
        ("rendered", _rendered),
        ("clock", _clock),
        ("leftovers", _leftovers),
    ):
        try:
            findings += [(title, message) for message in check(stack)]
        except ShopfdsError as error:
            findings.append((title, Message("fail", error.what, error.remedy)))
    rows = tuple((title, _mark(message.level), message.text) for title, message in findings)
    bad = [message for _, message in findings if message.level in ("fail", "warning")]
    failed = any(message.level == "fail" for message in bad)
    data = [{"check": title, "level": m.level, "finding": m.text, "remedy": m.remedy} for title, m in findings]
    messages = tuple(bad) or (Message("ok", "nothing to mend"),)
    return Result("doctor", data, (Table("", ("check", "", "finding"), rows),), messages, 1 if failed else 0)


def _mark(level: Level) -> str:
    return f"[{'OK' if level == 'info' else level.upper()}]"


def _servers(stack: Stack) -> Iterator[Message]:
    found = packages.find()
    for sentence in packages.missing(found):
        yield Message("fail", sentence, "`make setup` (or `shopfds setup`) installs it")
    for requirement in packages.REQUIREMENTS:
        server = found.get(requirement.server)
        if server is None:
            continue
        yield Message("ok", f"{requirement.title} {server.text} in {server.folder}")
        if server.version[0] > requirement.newest_tried:
            yield Message(
                "warning",
                f"{requirement.title} {server.text} is newer than what was tried ({requirement.newest_tried})",
                "report what does not work",
            )


def _folders(stack: Stack) -> Iterator[Message]:
    folder = data_folder(stack.project, stack.settings)
    for path in (stack.project, folder):
        present = next(parent for parent in [path, *path.parents] if parent.exists())
        if os.access(present, os.W_OK):
            yield Message("ok", f"{path} is writable")
        else:
            yield Message(
                "fail", f"{path} cannot be written", "correct its permissions, or `shopfds config set data DIR`"
            )


def _disk(stack: Stack) -> Iterator[Message]:
    folder = data_folder(stack.project, stack.settings)
    free = shutil.disk_usage(next(parent for parent in [folder, *folder.parents] if parent.exists())).free
    level: Level = "fail" if free < DISK_FAIL else "warning" if free < DISK_WARNING else "ok"
    yield Message(level, f"{free / 2**30:.1f} GiB free for data", "" if level == "ok" else "free some space")


def _memory(stack: Stack) -> Iterator[Message]:
    total, needed = psutil.virtual_memory().total // 2**20, stack.topology.memory
    level: Level = "ok" if needed <= total else "fail" if needed > 2 * total else "warning"
    remedy = "" if level == "ok" else "leave parts out (`shopfds up --without NAME`), or lower the `memory` settings"
    yield Message(level, f"the nodes may use {needed} MiB in all; this machine has {total} MiB", remedy)


def _files(stack: Stack) -> Iterator[Message]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILE_LIMIT:
        yield Message("warning", f"at most {hard} open files per process", f"raise it: `ulimit -n {FILE_LIMIT}`")
    else:
        yield Message("ok", f"open files per process: {soft}, up to {'any' if hard < 0 else hard}")


def _ports(stack: Stack) -> Iterator[Message]:
    states = stack.engine.states()
    down = [node for node in stack.topology if node.name not in states or states[node.name].pid is None]
    foreign = ports.taken(stack.settings.bind, down, str(data_folder(stack.project, stack.settings)))
    for node, port, holder in foreign:
        yield Message(
            "fail",
            f"port {port} of {node.name} is taken by {holder.text}",
            "stop that process, or move this stack: `shopfds config set ports.offset N`",
        )
    if not foreign:
        count = sum(len(node.ports) for node in stack.topology)
        yield Message("ok", f"all {count} ports are ours or free")


def _secrets(stack: Stack) -> Iterator[Message]:
    path = stack.secrets_file
    if not path.exists() and not stack.servers_with_data:
        yield Message("ok", "not generated yet; the first `shopfds up` does it")
        return
    if secrets.open_to_others(path):
        yield Message("fail", f"{path} may be read by others", f"chmod 600 {path}")
    live = stack.live  # raises if one is missing that data were made with
    states = stack.engine.states()
    refused = 0
    for component in stack.components:
        if not any(states[n.name].pid for n in stack.topology.of(component.name) if n.name in states):
            continue
        for problem in component.refused_secrets(live):
            refused += 1
            yield Message("fail", f"{problem.where} in .env is not in force: {problem.what}", problem.remedy)
    if not refused:
        yield Message("ok", f"{len(secrets.PURPOSES)} secrets present" + (", none refused" if states else ""))


def _rendered(stack: Stack) -> Iterator[Message]:
    if not stack.output.folder.exists():
        yield Message("ok", "not rendered yet")
        return
    changes = [change for change in stack.output.compare(stack.rendered()) if change.kind != "same"]
    for change in changes:
        text = "was edited by hand" if change.kind == "edited" else f"is {change.kind}"
        yield Message("warning", f"infrastructure/{change.path} {text}", "see `shopfds render --check --diff`")
    if not changes:
        yield Message("ok", "infrastructure/ is as the settings say")


def _clock(stack: Stack) -> Iterator[Message]:
    """Redis and PostgreSQL judge expiry by their own clocks: on one machine they must agree with ours."""
    states = stack.engine.states()
    if postgres.PRIMARY not in states or states[postgres.PRIMARY].pid is None:
        yield Message("ok", f"this machine says {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S} UTC")
        return
    try:
        with psycopg.connect(postgres.conninfo(stack.live, "monitor"), connect_timeout=2) as connection:
            row = connection.execute("SELECT clock_timestamp()").fetchone()
    except psycopg.Error as error:
        yield Message(
            "warning", f"PostgreSQL's clock cannot be read: {' '.join(str(error).split())}", "`shopfds status`"
        )
        return
    skew = abs((dt.datetime.now(dt.UTC) - row[0]).total_seconds()) if row else 0.0
    ok = skew < CLOCK_TOLERANCE_SECONDS
    yield Message(
        "ok" if ok else "fail", f"PostgreSQL's clock is {skew:.1f} s off ours", "" if ok else "synchronize them"
    )


def _leftovers(stack: Stack) -> Iterator[Message]:
    unknown = [name for name, state in stack.engine.states().items() if state.state == "unknown"]
    for name in unknown:
        yield Message(
            "warning", f"{name} runs without its supervisor", "`shopfds up` takes it back, `shopfds down` ends it"
        )
    volumes = data_folder(stack.project, stack.settings) / "volumes"
    known = set(stack.topology.names)
    found = _names(volumes) - known
    for name in sorted(found):
        yield Message("warning", f"{volumes / name} belongs to no node", "remove it if you do not need it")
    if not unknown and not found:
        yield Message("ok", "none")


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
