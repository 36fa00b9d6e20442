"""Checks of the machine, the settings, the secrets and what is left over; each finding with its remedy."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping

import psutil
import psycopg

from shopfds_ops import secrets
from shopfds_ops.components import postgres
from shopfds_ops.errors import ShopfdsError
from shopfds_ops.render import Kind
from shopfds_ops.result import Finding, Level, Message, Result, Table
from shopfds_ops.stack import Stack

CLOCK_TOLERANCE_SECONDS = 1.0
RENDERED: Mapping[Kind, tuple[str, str]] = {
    "new": ("is not there", "`shopfds up` writes it"),
    "changed": (
        "is not what the settings say",
        "`shopfds up` puts them in force; see `render --check --diff`",
    ),
    "edited": ("was edited by hand", "see `shopfds render --check --diff`"),
    "orphan": ("is read by nobody any more", "`shopfds render` removes it"),
}
"""What is said of a file that is not as it would be rendered now, and what to do."""


def examine(stack: Stack) -> Result:
    """Run every check; exit code 1 if one of them fails. Nothing is changed."""
    findings: list[Finding] = []
    for title, check in (
        ("machine", lambda stack: stack.engine.examine(stack.topology)),
        ("memory", _memory),
        ("secrets", _secrets),
        ("rendered", _rendered),
        ("clock", _clock),
    ):
        try:
            findings += check(stack)
        except ShopfdsError as error:
            found = Finding(title, "fail", error.what, error.remedy)
            if all(found.text != other.text for other in findings):  # one cause may stop several checks
                findings.append(found)
    rows = tuple((item.check, f"[{item.level.upper()}]", item.text) for item in findings)
    bad = tuple(Message(item.level, item.text, item.remedy) for item in findings if item.level != "ok")
    failed = any(message.level == "fail" for message in bad)
    messages = bad or (Message("ok", "nothing to mend"),)
    return Result("doctor", findings, (Table("", ("check", "", "finding"), rows),), messages, 1 if failed else 0)


def _memory(stack: Stack) -> Iterator[Finding]:
    total, needed = psutil.virtual_memory().total // 2**20, stack.topology.memory
    level: Level = "ok" if needed <= total else "fail" if needed > 2 * total else "warning"
    remedy = "" if level == "ok" else "leave parts out (`shopfds up --without NAME`), or lower the `memory` settings"
    yield Finding("memory", level, f"the nodes may use {needed} MiB in all; this machine has {total} MiB", remedy)


def _secrets(stack: Stack) -> Iterator[Finding]:
    path = stack.secrets_file
    if not path.exists() and not stack.servers_with_data:
        yield Finding("secrets", "ok", "not generated yet; the first `shopfds up` does it")
        return
    if secrets.open_to_others(path):
        yield Finding("secrets", "fail", f"{path} may be read by others", f"chmod 600 {path}")
    live = stack.live  # raises if one is missing that data were made with
    states = stack.engine.states()
    refused = 0
    for component in stack.components:
        if not any(states[n.name].pid for n in stack.topology.of(component.name) if n.name in states):
            continue
        for problem in component.refused_secrets(live):
            refused += 1
            yield Finding("secrets", "fail", f"{problem.where} in .env is not in force: {problem.what}", problem.remedy)
    if not refused:
        yield Finding(
            "secrets", "ok", f"{len(secrets.PURPOSES)} secrets present" + ("; what runs refuses none" if states else "")
        )


def _rendered(stack: Stack) -> Iterator[Finding]:
    if not stack.output.folder.exists():
        yield Finding("rendered", "ok", "not rendered yet")
        return
    changes = [change for change in stack.output.compare(stack.rendered()) if change.kind != "same"]
    for change in changes:
        text, remedy = RENDERED[change.kind]
        yield Finding("rendered", "warning", f"infrastructure/{change.path} {text}", remedy)
    if not changes:
        yield Finding("rendered", "ok", "infrastructure/ is as the settings say")


def _clock(stack: Stack) -> Iterator[Finding]:
    """PostgreSQL judges by its own clock what has expired: it must agree with ours."""
    states = stack.engine.states()
    if postgres.PRIMARY not in states or states[postgres.PRIMARY].pid is None:
        yield Finding("clock", "ok", f"this machine says {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S} UTC")
        return
    try:
        with psycopg.connect(postgres.conninfo(stack.live, "monitor"), connect_timeout=2) as connection:
            row = connection.execute("SELECT clock_timestamp()").fetchone()
    except psycopg.Error as error:
        yield Finding(
            "clock", "warning", f"PostgreSQL's clock cannot be read: {' '.join(str(error).split())}", "`shopfds status`"
        )
        return
    skew = abs((dt.datetime.now(dt.UTC) - row[0]).total_seconds()) if row else 0.0
    ok = skew < CLOCK_TOLERANCE_SECONDS
    yield Finding(
        "clock",
        "ok" if ok else "fail",
        f"PostgreSQL's clock is {skew:.1f} s off ours",
        "" if ok else "synchronize them",
    )
