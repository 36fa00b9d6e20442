"""Talking to supervisord: its XML-RPC interface over a unix socket, with its states as plain data."""

from __future__ import annotations

import datetime as dt
import http.client
import os
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from shopfds_ops.engines.base import State
from shopfds_ops.errors import EngineError, NotRunningError

STARTUP_SECONDS = 15.0
SHUTDOWN_SECONDS = 60.0
RPC_SECONDS = 15.0
SHUTDOWN_STATE = 6
"""supervisor.xmlrpc.Faults.SHUTDOWN_STATE"""

STATES: Mapping[str, State] = {
    "STOPPED": "stopped",
    "STARTING": "running",  # the process runs; whether it is ready is the probe's business
    "RUNNING": "running",
    "BACKOFF": "restarting",
    "STOPPING": "stopped",
    "EXITED": "restarting",  # by itself: supervisord is about to start it again
    "FATAL": "failed",
    "UNKNOWN": "unknown",
}
ALIVE = frozenset({"STARTING", "RUNNING", "BACKOFF", "STOPPING"})


class ShuttingDownError(EngineError):
    """supervisord was told to end and is stopping its programs."""


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=RPC_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _Connection(self._path)


@dataclass(frozen=True, slots=True)
class Process:
    """What supervisord says of one program."""

    name: str
    state: str
    pid: int | None
    started_at: dt.datetime | None
    exit_status: int | None
    error: str


class Supervisor:
    """One supervisord, found by its socket. Every call opens a connection of its own, so threads may share it."""

    def __init__(self, configuration: Path, socket_path: Path) -> None:
        self.configuration = configuration
        self.socket_path = socket_path

    def pid(self) -> int | None:
        """The process id of the supervisord that answers; None if there is none."""
        try:
            return int(self._call("getPID"))
        except NotRunningError:
            return None

    def settle(self) -> None:
        """Where an earlier command told supervisord to end, wait until it has."""
        end = time.monotonic() + SHUTDOWN_SECONDS
        while True:
            try:
                self.pid()
                return
            except ShuttingDownError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def launch(self) -> None:
        """Start supervisord; it detaches and outlives this process. Returns when it answers."""
        argv = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.configuration)]
        # Nothing of the operator's environment: the nodes would inherit it.
        environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "TZ": "UTC"}
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, cwd="/", start_new_session=True, env=environment
        )
        if done.returncode != 0:
            raise EngineError(
                f"supervisord does not start (exit status {done.returncode})",
                remedy=f"see {self.configuration}",
                details=(done.stderr or done.stdout).strip(),
            )
        end = time.monotonic() + STARTUP_SECONDS
        while self.pid() is None:
            if time.monotonic() > end:
                raise EngineError(
                    f"supervisord does not answer on {self.socket_path} after {STARTUP_SECONDS:.0f} s",
                    remedy="see logs/supervisord.log in the data folder (`shopfds config path`)",
                )
            time.sleep(0.05)

    def shutdown(self) -> None:
        """Stop all programs and supervisord itself; returns when its process is gone."""
        self.settle()
        pid = self.pid()
        if pid is None:
            return
        process = psutil.Process(pid)
        self._call("shutdown")
        try:
            process.wait(timeout=SHUTDOWN_SECONDS)
        except psutil.TimeoutExpired:
            raise EngineError(
                f"supervisord (pid {pid}) still runs after {SHUTDOWN_SECONDS:.0f} s", remedy="run `shopfds down` again"
            ) from None
        except psutil.NoSuchProcess:
            return

    def processes(self) -> dict[str, Process]:
        """All programs by name; empty when supervisord does not answer."""
        try:
            rows = self._call("getAllProcessInfo")
        except NotRunningError:
            return {}
        return {
            row["name"]: Process(
                name=row["name"],
                state=row["statename"],
                pid=row["pid"] or None,
                started_at=dt.datetime.fromtimestamp(row["start"], dt.UTC) if row["pid"] else None,
                exit_status=None if row["pid"] else row["exitstatus"],
                error=row["spawnerr"],
            )
            for row in rows
        }

    def reload(self, names: Sequence[str]) -> None:
        """Read the configuration again. Changed programs among `names` are stopped and defined anew; new ones are
        added; ones that are no longer defined are stopped and removed."""
        [[added, changed, removed]] = self._call("reloadConfig")
        again = [name for name in changed if name in names]
        for name in [*removed, *again]:
            self.stop([name])
            self._call("removeProcessGroup", name)
        for name in [*added, *again]:
            self._call("addProcessGroup", name)

    def start(self, name: str) -> None:
        """Start one program; does not wait."""
        try:
            self._call("startProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if "ALREADY_STARTED" not in fault.faultString:
                raise EngineError(
                    f"{name} cannot be started: {fault.faultString}", remedy=f"see `shopfds logs {name}`"
                ) from None

    def request_stop(self, name: str) -> None:
        """Ask one program to stop and to stay so; does not wait."""
        try:
            self._call("stopProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if "NOT_RUNNING" not in fault.faultString:
                raise EngineError(f"{name} cannot be stopped: {fault.faultString}", remedy="run it again") from None

    def stop(self, names: Sequence[str]) -> list[str]:
        """Stop programs side by side and wait until they are gone (supervisord kills those that take too long).

        Returns the names of those that ran.
        """
        alive = [name for name, process in self.processes().items() if name in names and process.state in ALIVE]
        for name in alive:
            self.request_stop(name)
        while any(process.state in ALIVE for name, process in self.processes().items() if name in alive):
            time.sleep(0.05)
        return alive

    def _call(self, method: str, *arguments: Any) -> Any:
        """Raises NotRunningError if there is no supervisord, ShuttingDownError if it is about to end.

        What it refuses is xmlrpc's Fault.
        """
        try:
            with xmlrpc.client.ServerProxy("http://localhost", transport=_Transport(str(self.socket_path))) as proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == SHUTDOWN_STATE:
                raise ShuttingDownError(
                    "the stack is being stopped by another command", remedy="wait until that has ended, then try again"
                ) from None
            raise
        except PermissionError:
            raise EngineError(
                f"{self.socket_path} may not be used: the stack belongs to another user",
                remedy="run this command as the user who set the stack up",
            ) from None
        except TimeoutError:
            raise EngineError(
                f"supervisord does not answer within {RPC_SECONDS:.0f} s ({self.socket_path})",
                remedy="see whether it is frozen (`ps`), wake it with SIGCONT or end it, then `shopfds up`",
            ) from None
        except (OSError, http.client.HTTPException):
            # No socket, nobody behind it, or it closed on us: there is no supervisord (any more).
            raise NotRunningError("no supervisord runs", remedy="run `shopfds up`") from None
