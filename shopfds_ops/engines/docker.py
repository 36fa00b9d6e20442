"""Engine `docker`: nodes as containers, by Docker Compose."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal as signals
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path

from python_on_whales import DockerClient

from shopfds_ops.engines import containerlogs, daemon, docker_checks, images, imagestore
from shopfds_ops.engines.base import FATAL_SIGNALS, Completed, LogLine, NodeState
from shopfds_ops.engines.compose import FILES_LABEL, SECRETS, ComposeFiles
from shopfds_ops.engines.containers import Belongings, Container, refusals, waves
from shopfds_ops.engines.images import ImageSet, Kind
from shopfds_ops.engines.sites import EVERYWHERE
from shopfds_ops.errors import EngineError, NotRunningError
from shopfds_ops.events import Sink
from shopfds_ops.files import write_atomically
from shopfds_ops.render import Source
from shopfds_ops.result import Finding
from shopfds_ops.settings import Settings
from shopfds_ops.topology import Node, Site, Topology

SECRETS_FOLDER_MODE = 0o700
SECRET_MODE = 0o444
"""A node runs as another user than the one who owns the file; from outside nobody else gets through the folder."""
LEFT_BEHIND_SECONDS = 1.0
KEPT_BY_INIT = frozenset({"SIGABRT", "SIGSEGV"})
"""A container's init passes all signals on to the server but these, which would be its own faults."""


class DockerEngine:
    """Runs nodes by Docker Compose. See `engines.base.Engine` for what each method promises.

    Compose makes and replaces containers, as the rendered file says. What there is, is known by its labels: so all
    that only looks or stops works without that file, too.
    """

    name = "docker"

    def __init__(self, project: Path, settings: Settings) -> None:
        self.project = project
        self.settings = settings
        self._place = ComposeFiles(project, settings, images.registry(settings.images))
        self._docker = DockerClient(compose_files=[self._place.file], compose_project_name=self._place.stack)
        self._images = imagestore.Images(self._docker, self._place)

    @property
    def site(self) -> Site:
        return self._compose.site

    @property
    def data(self) -> str:
        return f"the Docker volumes {self._place.stack}_*"

    @property
    def programs(self) -> str:
        return f"{self._compose.images.kind} images"

    def examine(self, topology: Topology) -> Iterator[Finding]:
        volumes = [self._place.volume(node.name, volume) for node in topology for volume in node.volumes]
        yield from docker_checks.images(self._compose.images, self._images.missing(self._compose.images))
        yield from docker_checks.examine(self._ours, self.settings, volumes, topology)

    @cached_property
    def _ours(self) -> Belongings:
        daemon.require()
        return Belongings(self._client, self._place.stack)

    # -- images and files ----------------------------------------------------------------------------------------

    @cached_property
    def _image_set(self) -> ImageSet | None:
        """The images that this stack uses; None while that is open, or nobody can be asked."""
        return None if daemon.look().obstacle else self._images.decide(self._kind_in_use())

    @cached_property
    def _compose(self) -> ComposeFiles:
        found = self._image_set or images.without_daemon(self.settings.images, images.recorded(self._place.file))
        return ComposeFiles(self.project, self.settings, found)

    def _kind_in_use(self) -> Kind | None:
        return imagestore.used_by(self._docker, self._place.stack)

    def sources(self, topology: Topology, files: Mapping[str, bytes]) -> Sequence[Source]:
        return self._compose.sources(topology, files)

    def publish(self, secrets: Mapping[str, str]) -> None:
        known = daemon.look().obstacle is None
        if known:
            self._require_own_data()
        # New data are made with what is there; for data that are there already, `up` changes secrets node by node.
        overwritten = known and not self._ours.volumes()
        stale = self._stale(secrets)
        self._write_secrets({name: stale[name] for name in stale if overwritten or not self._secret(name).exists()})

    def provide(self, sink: Sink) -> None:
        daemon.require()
        decided = self._images.provide(self._kind_in_use(), sink)
        self._image_set = decided
        self.__dict__.pop("_compose", None)

    def require(self) -> None:
        daemon.require()
        if self._image_set is None:
            raise EngineError("there are no images yet", remedy=docker_checks.IMAGES_REMEDY)

    def preflight(self, nodes: Sequence[Node]) -> None:
        self._require_own_data()
        docker_checks.require_images(self._images.missing(self._compose.images))
        down = docker_checks.down(nodes, self._ours.nodes())
        if down:
            docker_checks.require_free_ports(self.settings, down)
            docker_checks.require_space(self._ours)
            docker_checks.require_subnet(self._ours, self._place.subnet)

    def _require_own_data(self) -> None:
        """Raise EngineError if the data that would be used are not this stack's, or not for its images."""
        docker_checks.require_own_name(self._ours, self._place)
        docker_checks.require_data_in_reach(self._ours, self._place)
        if self._ours.volumes():
            record = images.recorded(self._place.file)
            docker_checks.require_same_servers(self._compose.images, record, self._kind_in_use())

    def prepare(self, topology: Topology, rendered: Mapping[str, bytes], secrets: Mapping[str, str]) -> Sequence[str]:
        containers = self._ours.nodes()
        self._remove([item for name, item in containers.items() if name not in topology.names])
        # Compose keeps a container though it reads its files where they no longer are, since the folder was moved.
        here = self._place.folder.resolve()
        moved = [item for name, item in containers.items() if name in topology.names and item.folder != here]
        self._remove(moved)
        stale = self._stale(secrets)
        changed = [
            containers[node.name]
            for node in topology
            if node.name in containers
            and containers[node.name].alive
            and containers[node.name] not in moved
            and (
                stale.keys() & set(node.secrets)
                or containers[node.name].labels.get(FILES_LABEL) != self._compose.digest(node, rendered)
            )
        ]
        # A node stops before its files change: whoever interrupts us here leaves a stopped node, which the next
        # `up` starts with the new files, and never a running one with old settings that nobody notices. (The rendered
        # files are new already; a container keeps those it was started with, and its label tells which they are.)
        self._stop(changed)
        self._write_secrets(stale)
        restarted = {item.node for item in (*changed, *moved) if item.alive}
        return [node.name for node in topology if node.name in restarted]

    def _stale(self, secrets: Mapping[str, str]) -> dict[str, str]:
        """Those of the secret files that are missing or differ."""
        return {name: text for name, text in secrets.items() if _content(self._secret(name)) != text.encode()}

    def _secret(self, name: str) -> Path:
        return self._place.folder / SECRETS / name

    def _write_secrets(self, secrets: Mapping[str, str]) -> None:
        folder = self._place.folder / SECRETS
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(SECRETS_FOLDER_MODE)
        for name, text in secrets.items():
            write_atomically(self._secret(name), text.encode(), mode=SECRET_MODE)

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self, nodes: Sequence[Node]) -> Sequence[str]:
        before = self._ours.nodes()
        present = [before[node.name] for node in nodes if node.name in before]
        self._thaw(present)
        # A process whose data folder was emptied under it serves from memory what it can no longer keep.
        kept = self.with_data(nodes)
        hollow = {node.name for node in nodes if node.volumes and node.name not in kept}
        # What crashes again and again gets a new chance now, and not when the daemon has waited for long enough.
        self._stop([item for item in present if item.alive and (item.node in hollow or item.state == "failed")])
        # One after the other: within one command Compose would wait until those that others need are healthy, which
        # our own gates do, and they know what to say when a node never is.
        for wave in reversed(list(waves({node.name: node.depends_on for node in nodes}))):
            with docker_checks.explained(self._place.subnet):
                self._docker.compose.up(wave, detach=True, dependencies=False, pull="never", quiet=True)
        after = self._ours.nodes()
        return [node.name for node in nodes if _life(after.get(node.name)) != _life(before.get(node.name))]

    def stop(self, nodes: Sequence[Node]) -> Sequence[str]:
        names = {node.name for node in nodes}
        return self._stop([item for name, item in self._ours.nodes().items() if name in names and item.alive])

    def _stop(self, containers: Sequence[Container]) -> list[str]:
        """Stop them within their own grace periods, dependents first; returns their nodes' names."""
        self._thaw(containers)
        for wave in waves({item.node: item.depends_on for item in containers}):
            with refusals(f"stop {' '.join(wave)}"):
                self._docker.container.stop([item.id for item in containers if item.node in wave])
        return [item.node for item in containers]

    def _thaw(self, containers: Iterable[Container]) -> None:
        paused = [item for item in containers if item.status == "paused"]
        if paused:
            with refusals(f"unpause {' '.join(item.node for item in paused)}"):
                self._docker.container.unpause([item.id for item in paused])

    def _remove(self, containers: Sequence[Container]) -> None:
        """Stop and remove them; what is in volumes stays."""
        self._stop([item for item in containers if item.alive])
        if containers:
            with refusals(f"remove {' '.join(item.name for item in containers)}"):
                self._docker.container.remove([item.id for item in containers], force=True)

    def shutdown(self) -> None:
        docker_checks.require_own_checkout(self._ours, self._place)
        self._remove(self._ours.containers())
        self._ours.remove_networks()

    def states(self) -> Mapping[str, NodeState]:
        return {name: item.report() for name, item in self._ours.nodes().items()}

    def execute(
        self,
        node: Node,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout: float = 60.0,
    ) -> Completed:
        options = ["--interactive"] if stdin is not None else []
        # Whoever ends the docker client does not end what it runs: the container itself does that, a little later.
        limited = ["timeout", "-s", "KILL", f"{timeout + LEFT_BEHIND_SECONDS:.0f}", *argv]
        command = self._exec(node, options, limited, environment)
        try:
            done = subprocess.run(
                command,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
                env=os.environ | dict(environment or {}),
            )
        except subprocess.TimeoutExpired:
            raise EngineError(
                f"`{' '.join(argv)}` in {node.name} did not end within {timeout:.0f} s",
                remedy=f"`shopfds logs {node.name}`",
            ) from None
        if done.stderr.startswith("Error") and ("is not running" in done.stderr or "No such container" in done.stderr):
            raise _not_running(node)
        if done.stderr.startswith("timeout: failed to run command"):
            raise EngineError(f"the image of {node.name} has no program '{argv[0]}'", remedy="take another image")
        return Completed(tuple(argv), done.returncode, done.stdout, done.stderr)

    def attach(self, node: Node, argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> int:
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
        variables = dict(environment or {}) | ({"TERM": os.environ.get("TERM", "dumb")} if terminal else {})
        options = ["--interactive", "--tty"] if terminal else ["--interactive"]
        # Ctrl-C belongs to the client on the terminal (psql cancels its query), not to us.
        previous = signals.signal(signals.SIGINT, lambda *_: None)
        try:
            command = self._exec(node, options, argv, variables)
            return subprocess.run(command, check=False, env=os.environ | variables).returncode
        finally:
            signals.signal(signals.SIGINT, previous)

    def _exec(
        self, node: Node, options: Sequence[str], argv: Sequence[str], environment: Mapping[str, str] | None
    ) -> list[str]:
        """The docker command. Variables are named only, their values come from its own environment: everybody on this
        machine may read its arguments."""
        named = [word for name in environment or {} for word in ("--env", name)]
        return [*self._client, "exec", *options, *named, self._container_name(node), *argv]

    @property
    def _client(self) -> list[str]:
        return [str(part) for part in self._docker.client_config.docker_cmd]

    def _container_name(self, node: Node) -> str:
        """As Compose names it."""
        return f"{self._place.stack}-{node.name}-1"

    def logs(
        self, nodes: Sequence[Node], *, since: dt.datetime | None = None, follow: bool = False, tail: int | None = None
    ) -> Iterator[LogLine]:
        names = {node.name: self._container_name(node) for node in nodes}
        return containerlogs.read(self._client, names, since=since, follow=follow, tail=tail)

    def kill(self, node: Node, signal: str = "SIGKILL") -> None:
        container = self._ours.nodes().get(node.name)
        if container is None or container.pid is None:
            raise _not_running(node)
        with refusals(f"send {signal} to {node.name}"):
            if signal == "SIGSTOP":
                if container.status != "paused":
                    self._docker.container.pause(container.id)
            elif signal == "SIGCONT":
                self._thaw([container])
            elif signal in FATAL_SIGNALS:
                self._thaw([container])
                self._docker.container.kill(container.id, signal=signal)
                if signal in KEPT_BY_INIT:
                    self._send_within(node, signal, "-1")  # to all but init, the shell that sends it included
            else:
                # By `docker kill` the daemon would take it for stopped on purpose, and leave it so when it crashes.
                done = self._send_within(node, signal, "1")
                if done.exit_status != 0:
                    raise EngineError(
                        f"{node.name} cannot be sent {signal}: {done.stderr.strip()}", remedy="see `shopfds ps`"
                    )

    def _send_within(self, node: Node, signal: str, target: str) -> Completed:
        return self.execute(node, ("sh", "-c", f"kill -s {signal.removeprefix('SIG')} -- {target}"))

    def address(self, node: Node, port: str) -> tuple[str, int]:
        return "127.0.0.1" if self.settings.bind == EVERYWHERE else self.settings.bind, node.port(port)

    def with_data(self, nodes: Sequence[Node]) -> Set[str]:
        places = self._ours.volumes()
        filled = {name for name, place in places.items() if _holds_something(place)}
        return {
            node.name for node in nodes if any(self._place.volume(node.name, item) in filled for item in node.volumes)
        }

    def wipe(self, node: Node) -> None:
        container = self._ours.nodes().get(node.name)
        if container is not None:
            self._remove([container])
        present = self._ours.volumes().keys()
        names = [name for item in node.volumes if (name := self._place.volume(node.name, item)) in present]
        if names:
            with refusals(f"remove {' '.join(names)}"):
                self._docker.volume.remove([f"{self._place.stack}_{name}" for name in names])

    def remove(self) -> None:
        docker_checks.require_data_in_reach(self._ours, self._place)
        self._ours.remove_volumes()
        shutil.rmtree(self._place.folder / SECRETS, ignore_errors=True)


def _life(container: Container | None) -> tuple[str, dt.datetime | None] | None:
    """What is another one after a start, a replacement, or the end of a pause; None while it does not run."""
    if container is None or container.status not in ("running", "restarting"):
        return None
    return container.id, container.started_at


def _not_running(node: Node) -> NotRunningError:
    return NotRunningError(f"{node.name} does not run", remedy=f"`shopfds start {node.name}`")


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _holds_something(volume: Path) -> bool:
    """Whether a volume holds a file. Where its folder cannot be seen (not Linux, not root), that it exists counts."""
    if not os.access(volume, os.R_OK | os.X_OK):
        return True
    return any(item.is_file() for item in volume.rglob("*"))
