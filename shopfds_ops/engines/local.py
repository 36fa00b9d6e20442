"""Engine `local`: the same servers as plain processes of this machine, under supervisor, on loopback."""

from __future__ import annotations

import datetime as dt
import os
import pwd
import shutil
import signal as signals
import subprocess
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import psutil

from shopfds_ops.engines import checks, folders, logfiles, packages, ports, strays
from shopfds_ops.engines.base import FATAL_SIGNALS, Completed, LogLine, NodeState
from shopfds_ops.engines.packages import Installed
from shopfds_ops.engines.sites import LocalSite
from shopfds_ops.engines.supervisor import ALIVE, STATES, Supervisor
from shopfds_ops.errors import EngineError, NotRunningError
from shopfds_ops.events import Sink
from shopfds_ops.files import write_atomically
from shopfds_ops.render import Source
from shopfds_ops.result import Finding
from shopfds_ops.settings import INFRASTRUCTURE, NODE_VARIABLE, STACK_VARIABLE, VOLUMES, Settings
from shopfds_ops.topology import Node, Topology

START_RETRIES = 5


@dataclass(frozen=True, slots=True)
class Account:
    """A user that a node runs as; None as name: the user who runs us."""

    name: str | None
    uid: int
    gid: int
    home: str


class LocalEngine:
    """Runs nodes under supervisord. See `engines.base.Engine` for what each method promises."""

    name = "local"

    def __init__(self, project: Path, settings: Settings) -> None:
        self.project = project
        self.settings = settings
        self.folder = folders.data_folder(project, settings)
        self._major = packages.major_of_data(self.folder / VOLUMES)
        self.installed: dict[str, Installed] = packages.find(self._major)
        self.site = LocalSite(
            self.folder, settings.bind, {name: found.version for name, found in self.installed.items()}
        )
        self._supervisor = Supervisor(
            project / INFRASTRUCTURE / self.name / "supervisord.conf", folders.socket_path(self.folder)
        )

    @property
    def data(self) -> str:
        return str(self.folder)

    @property
    def programs(self) -> str:
        return "packages"

    def examine(self, topology: Topology) -> Iterator[Finding]:
        yield from checks.servers(self.installed)
        yield from checks.places(self.project, self.folder)
        yield from checks.free_ports(self.settings, self._down(tuple(topology)), self._stack)
        yield from checks.nodes(topology, self.states())
        yield from checks.leftovers(self.folder / VOLUMES, topology, self.states())

    # -- files ---------------------------------------------------------------------------------------------------

    def sources(self, topology: Topology, files: Mapping[str, bytes]) -> Sequence[Source]:
        """supervisord.conf: one program for each node."""
        programs = [self._program(node) for node in topology]
        variables = {
            "settings": self.settings,
            "folder": self.folder,
            "socket": self._supervisor.socket_path,
            "start_retries": START_RETRIES,
            "programs": programs,
        }
        return [Source("local/supervisord.conf.j2", "local/supervisord.conf", variables)]

    def publish(self, secrets: Mapping[str, str]) -> None:
        """Nothing: what is rendered for it is run by it alone."""

    def provide(self, sink: Sink) -> None:
        """Nothing: installing servers needs root, and is asked for by `setup`."""

    def require(self) -> None:
        if self._major is not None and "postgres" not in self.installed:
            raise EngineError(
                f"the data in {self.folder} were made with PostgreSQL {self._major}, which is not installed",
                remedy=f"install postgresql-{self._major}; docs/operations.md tells how to upgrade to another major",
            )
        absent = packages.missing(self.installed)
        if absent:
            raise EngineError("; ".join(absent), remedy="`make setup` (or `shopfds setup`) installs what is missing")

    def preflight(self, nodes: Sequence[Node]) -> None:
        self._supervisor.settle()
        folders.require_usable(self.folder)
        ports.require_free(self.settings.bind, self._down(nodes), self._stack, self.settings.ports.offset)

    def prepare(self, topology: Topology, rendered: Mapping[str, bytes], secrets: Mapping[str, str]) -> Sequence[str]:
        wanted = self._wanted_files(topology, rendered, secrets)
        stale = {path for path, (content, _, _) in wanted.items() if not path.is_file() or path.read_bytes() != content}
        changed = [
            node.name
            for node in topology
            if any(Path(path) in stale for path in [*map(self.site.config, node.files), *self._secret_paths(node)])
        ]
        # A node stops before its files change: whoever interrupts us here leaves a stopped node, which the next
        # `up` starts with the new files, and never a running one with old settings that nobody notices.
        stopped = self._supervisor.stop(changed)
        for node in topology:
            account = self._account(node)
            for path in [*self._volume_paths(node), self.folder / "secrets" / node.name]:
                self._make_folder(path, account)
        for path in sorted(stale):
            content, mode, owner = wanted[path]
            write_atomically(path, content, mode=mode, owner=(owner.uid, owner.gid) if owner else None)
        return stopped

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self, nodes: Sequence[Node]) -> Sequence[str]:
        names = [node.name for node in nodes]
        if self._supervisor.pid() is None:
            strays.end(self._stack, None)
            self._supervisor.launch()
        self._supervisor.reload(names)
        before = self._supervisor.processes()
        woken = []
        for node in nodes:
            if _frozen(pid := before[node.name].pid):
                os.kill(pid, signals.SIGCONT)
                woken.append(node.name)
        # A process whose data folder was removed under it serves from memory what it can no longer keep.
        kept = self.with_data(nodes)
        hollow = [n.name for n in nodes if n.volumes and before[n.name].state in ALIVE and n.name not in kept]
        # One that an interrupted command still stops would be gone a moment later.
        going = [node.name for node in nodes if before[node.name].state == "STOPPING"]
        self._supervisor.stop([*hollow, *going])
        for node in nodes:
            for path in self._volume_paths(node):
                self._make_folder(path, self._account(node))
        states = self._supervisor.processes()
        down = [node for node in nodes if states[node.name].state not in ALIVE]
        strays.end(self._stack, {node.name for node in down})
        for node in down:
            self._supervisor.start(node.name)
        return [*woken, *(node.name for node in down)]

    def stop(self, nodes: Sequence[Node]) -> Sequence[str]:
        self._supervisor.settle()
        names = {node.name for node in nodes}
        stopped = self._supervisor.stop([node.name for node in reversed(nodes)])
        return [*stopped, *(name for name in strays.end(self._stack, names) if name not in stopped)]

    def shutdown(self) -> None:
        self._supervisor.shutdown()
        strays.end(self._stack, None)

    def states(self) -> Mapping[str, NodeState]:
        processes = self._supervisor.processes()
        if not processes:
            return {
                name: NodeState(name, "unknown", pid, detail="runs without its supervisor: `shopfds up` takes it back")
                for name, pid in strays.find(self._stack, None).items()
            }
        return {
            name: NodeState(
                node=name,
                state="paused" if _frozen(process.pid) else STATES.get(process.state, "unknown"),
                pid=process.pid,
                started_at=process.started_at,
                memory=_memory(process.pid),
                exit_status=process.exit_status,
                detail=process.error,
            )
            for name, process in processes.items()
        }

    def execute(
        self,
        node: Node,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout: float = 60.0,
    ) -> Completed:
        program = self._resolve(node, argv[0])
        try:
            done = subprocess.run(
                [program, *argv[1:]],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                **self._as_node(node, environment),
            )
        except subprocess.TimeoutExpired:
            raise EngineError(
                f"`{' '.join(argv)}` in {node.name} did not end within {timeout:.0f} s",
                remedy=f"`shopfds logs {node.name}`",
            ) from None
        return Completed(tuple(argv), done.returncode, done.stdout, done.stderr)

    def attach(self, node: Node, argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> int:
        program = self._resolve(node, argv[0])
        # Ctrl-C belongs to the client on the terminal (psql cancels its query), not to us.
        previous = signals.signal(signals.SIGINT, lambda *_: None)
        try:
            terminal = {"TERM": os.environ.get("TERM", "dumb")}
            settings = self._as_node(node, terminal | dict(environment or {}))
            process = subprocess.Popen([program, *argv[1:]], **settings)
            return process.wait()
        finally:
            signals.signal(signals.SIGINT, previous)

    def logs(
        self, nodes: Sequence[Node], *, since: dt.datetime | None = None, follow: bool = False, tail: int | None = None
    ) -> Iterator[LogLine]:
        files = {node.name: self._log_path(node) for node in nodes}
        return logfiles.read(files, since=since, follow=follow, tail=tail)

    def kill(self, node: Node, signal: str = "SIGKILL") -> None:
        process = self._supervisor.processes().get(node.name)
        if process is None or process.pid is None:
            raise NotRunningError(f"{node.name} does not run", remedy=f"`shopfds start {node.name}`")
        number = signals.Signals[signal]
        if signal not in FATAL_SIGNALS:
            os.kill(process.pid, number)
            return
        # Frozen, it cannot act on the stop request that tells supervisord not to start it again; then it gets the
        # signal that was asked for.
        os.kill(process.pid, signals.SIGSTOP)
        self._supervisor.request_stop(node.name)
        try:
            os.killpg(process.pid, number)
            os.kill(process.pid, signals.SIGCONT)
        except ProcessLookupError:
            return

    def address(self, node: Node, port: str) -> tuple[str, int]:
        return self.site.host(node.name), node.port(port)

    def with_data(self, nodes: Sequence[Node]) -> Set[str]:
        return {
            node.name
            for node in nodes
            if any(item.is_file() for path in self._volume_paths(node) for item in path.rglob("*"))
        }

    def wipe(self, node: Node) -> None:
        volume = self.folder / VOLUMES / node.name
        if volume.exists():
            # Away in one move: a server never starts on what is left of half a removal.
            gone = volume.with_name(f"{node.name}.removed")
            shutil.rmtree(gone, ignore_errors=True)
            volume.rename(gone)
            shutil.rmtree(gone)
        for path in self._volume_paths(node):
            self._make_folder(path, self._account(node))

    def remove(self) -> None:
        folders.remove(self.folder)

    # -- inside --------------------------------------------------------------------------------------------------

    @cached_property
    def _stack(self) -> str:
        return str(self.folder)

    def _down(self, nodes: Sequence[Node]) -> list[Node]:
        """Those of the nodes that supervisord does not run."""
        alive = {name for name, process in self._supervisor.processes().items() if process.state in ALIVE}
        return [node for node in nodes if node.name not in alive]

    def _account(self, node: Node) -> Account:
        if os.geteuid() != 0:
            me = pwd.getpwuid(os.geteuid())
            return Account(None, me.pw_uid, me.pw_gid, me.pw_dir)
        try:
            entry = pwd.getpwnam(node.user)
        except KeyError:
            raise EngineError(
                f"{node.name} runs as user '{node.user}', who does not exist",
                remedy="`make setup` installs the package that creates it",
            ) from None
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)

    def _environment(self, node: Node) -> dict[str, str]:
        folders = [str(item.folder) for item in self.installed.values()]
        return {
            "PATH": os.pathsep.join(
                dict.fromkeys([*folders, "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"])
            ),
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "HOME": str(self.folder / VOLUMES / node.name),
            **node.environment,
        }

    def _resolve(self, node: Node, program: str) -> str:
        found = shutil.which(program, path=self._environment(node)["PATH"])
        if found is None:
            raise EngineError(
                f"{node.name} needs the program '{program}', which is not on this machine", remedy="install it"
            )
        return found

    def _as_node(self, node: Node, environment: Mapping[str, str] | None) -> dict[str, Any]:
        account = self._account(node)
        settings: dict[str, Any] = {"env": self._environment(node) | dict(environment or {}), "cwd": "/"}
        if account.name is not None:
            settings |= {"user": account.uid, "group": account.gid, "extra_groups": []}
        return settings

    def _program(self, node: Node) -> dict[str, Any]:
        # The marks by which we know our own processes again, whatever became of their supervisor.
        environment = self._environment(node) | {STACK_VARIABLE: self._stack, NODE_VARIABLE: node.name}
        found = self.installed.get(node.image)
        folders = environment["PATH"]
        program = shutil.which(node.command[0], path=folders) or str(
            (found.folder if found else Path()) / node.command[0]
        )
        return {
            "name": node.name,
            "component": node.component,
            "role": node.role,
            "command": " ".join(_quoted(part) for part in [program, *node.command[1:]]),
            "directory": self._volume_paths(node)[0] if node.volumes else self.folder,
            "user": node.user if os.geteuid() == 0 else "",
            "environment": ",".join(f'{name}="{_escaped(value)}"' for name, value in environment.items()),
            "stop_signal": node.stop_signal.removeprefix("SIG"),
            "stop_timeout": int(node.stop_timeout),
            "log": self._log_path(node),
        }

    def _wanted_files(
        self, topology: Topology, rendered: Mapping[str, bytes], secrets: Mapping[str, str]
    ) -> dict[Path, tuple[bytes, int, Account | None]]:
        wanted: dict[Path, tuple[bytes, int, Account | None]] = {}
        for node in topology:
            for source in node.files:
                wanted[Path(self.site.config(source))] = (rendered[f"{self.name}/{source}"], 0o644, None)
            for secret in node.secrets:
                path = Path(self.site.secret(node.name, secret))
                wanted[path] = (secrets[secret].encode(), 0o400, self._account(node))
        return wanted

    def _secret_paths(self, node: Node) -> list[str]:
        return [self.site.secret(node.name, name) for name in node.secrets]

    def _volume_paths(self, node: Node) -> list[Path]:
        return [Path(self.site.volume(node.name, volume, node.image)) for volume in node.volumes]

    def _log_path(self, node: Node) -> Path:
        return self.folder / "logs" / f"{node.name}.log"

    def _make_folder(self, path: Path, account: Account) -> None:
        for folder in (path.parent, path):
            if not folder.exists():
                folder.mkdir(parents=True)
                folder.chmod(0o755 if folder.parent in (self.folder, self.folder / VOLUMES) else 0o700)
                if os.geteuid() == 0 and folder.parent != self.folder:
                    os.chown(folder, account.uid, account.gid)


def _frozen(pid: int | None) -> TypeGuard[int]:
    """Whether a process was stopped by a signal and waits for SIGCONT."""
    try:
        return pid is not None and psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False


def _memory(pid: int | None) -> int | None:
    """Proportional set size of a process and its children, in bytes: shared buffers count once."""
    if pid is None:
        return None
    try:
        process = psutil.Process(pid)
        return sum(int(item.memory_full_info().pss) for item in [process, *process.children(recursive=True)])
    except psutil.Error:
        return None


def _quoted(part: str) -> str:
    # supervisord splits commands like a shell and expands %(name)s.
    return "'" + part.replace("%", "%%").replace("'", "'\\''") + "'"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
