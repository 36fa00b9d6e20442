"""The containers and volumes of one stack as the daemon describes them, found by the labels that Compose gives them."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from python_on_whales.exceptions import DockerException

from shopfds_ops.engines.base import NodeState, State
from shopfds_ops.engines.compose import NETWORK_LABEL, NODE_LABEL
from shopfds_ops.engines.daemon import FOLDER_LABEL, SERVICE_LABEL, STACK_LABEL
from shopfds_ops.errors import EngineError

VOLUME_LABEL = "com.docker.compose.volume"
DEPENDENCIES_LABEL = "com.docker.compose.depends_on"
ONE_OFF_LABEL = "com.docker.compose.oneoff"
"""On containers made by `docker compose run`: they belong to the stack, and are no node."""

CRASHES = 5
"""Restarts by the daemon after which a node that dies young counts as failed, like supervisord's retries."""
YOUNG = dt.timedelta(seconds=10)
"""The daemon's own measure: after a life of this length it restarts a container without delay again."""
CGROUPS = Path("/sys/fs/cgroup")
LAST_LINES = 5

STATES: Mapping[str, State] = {
    "created": "stopped",
    "running": "running",
    "paused": "paused",
    "restarting": "restarting",
    "removing": "stopped",
    "exited": "stopped",
    "dead": "failed",
}


@dataclass(frozen=True, slots=True)
class Container:
    """One container, as `docker inspect` describes it."""

    id: str
    name: str
    labels: Mapping[str, str]
    status: str
    """The daemon's word: created, running, paused, restarting, removing, exited, dead."""
    pid: int | None
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    restarts: int
    """By the daemon, since it was last started on purpose."""
    exit_status: int
    error: str
    """Why the daemon could not start it."""
    out_of_memory: bool
    unhealthy: str | None
    """What its health check said last; None unless it fails."""

    @property
    def node(self) -> str:
        return self.labels[SERVICE_LABEL]

    @property
    def folder(self) -> Path:
        """Of the docker-compose.yml that it was made from."""
        return Path(self.labels[FOLDER_LABEL]).resolve()

    @property
    def depends_on(self) -> frozenset[str]:
        """The nodes it needs: the label reads `postgres-primary:service_healthy:false,...`."""
        return frozenset(item.split(":")[0] for item in self.labels.get(DEPENDENCIES_LABEL, "").split(",") if item)

    @property
    def alive(self) -> bool:
        """Whether it runs, or the daemon is about to start it again."""
        return self.status in ("running", "paused", "restarting")

    @property
    def state(self) -> State:
        if self.status == "restarting" and self.restarts >= CRASHES and self._died_young:
            return "failed"
        if self.error and not self.alive:
            return "failed"
        return STATES.get(self.status, "unknown")

    @property
    def _died_young(self) -> bool:
        lived = self.started_at is not None and self.finished_at is not None and self.finished_at - self.started_at
        return isinstance(lived, dt.timedelta) and lived < YOUNG

    def report(self) -> NodeState:
        """What the engine says of the node."""
        return NodeState(
            node=self.node,
            state=self.state,
            pid=self.pid,
            started_at=self.started_at if self.pid else None,
            memory=memory(self.id, self.pid),
            exit_status=None if self.pid else self.exit_status,
            detail=self._detail,
        )

    @property
    def _detail(self) -> str:
        if self.error:
            return self.error
        if self.out_of_memory:
            return "it used more memory than it may"
        return f"unhealthy: {self.unhealthy}" if self.unhealthy is not None else ""


class Belongings:
    """What the daemon keeps for one stack: what is in its Compose project and bears our own label. Somebody else's
    project may have the same name. Each question costs one or two processes of the docker client."""

    def __init__(self, client: Sequence[str], stack: str) -> None:
        self.stack = stack
        self._client = client
        self._in_project = ("--filter", f"label={STACK_LABEL}={stack}")

    def named(self, stack: str) -> Belongings:
        """What the daemon keeps for a stack of another name."""
        return Belongings(self._client, stack)

    def containers(self) -> list[Container]:
        """All containers in any state, those of jobs and `docker compose run` too."""
        ids = self.ask("ps", "--all", "--quiet", "--no-trunc", *self._labelled(NODE_LABEL)).split()
        if not ids:
            return []
        # One that is gone by now makes the exit status 1; the others are described all the same.
        answer = self.ask("container", "inspect", *ids, gone="No such container")
        return [_container(item) for item in json.loads(answer)]

    def nodes(self) -> dict[str, Container]:
        """The container of each service. While Compose replaces one there are two: then the one that runs."""
        found = [item for item in self.containers() if item.labels.get(ONE_OFF_LABEL) != "True"]
        return {item.node: item for item in sorted(found, key=lambda item: item.alive)}

    def volumes(self) -> dict[str, Path]:
        """The volumes by their names in the Compose file, and where the daemon keeps them on its machine."""
        columns = f'{{{{.Label "{VOLUME_LABEL}"}}}}\t{{{{.Mountpoint}}}}'
        rows = self.ask("volume", "ls", *self._labelled(NODE_LABEL), "--format", columns).splitlines()
        pairs = (row.split("\t") for row in rows)
        return {name: Path(place) for name, place in pairs}

    def foreign(self) -> list[str]:
        """Containers and volumes in the Compose project that are not ours: it is somebody else's."""
        ours = f'{{{{.Label "{NODE_LABEL}"}}}}'
        rows = [
            *self.ask("ps", "--all", *self._in_project, "--format", f"container {{{{.Names}}}}\t{ours}").splitlines(),
            *self.ask("volume", "ls", *self._in_project, "--format", f"volume {{{{.Name}}}}\t{ours}").splitlines(),
        ]
        return [name for name, node in (row.split("\t") for row in rows) if not node]

    def folders(self) -> set[Path]:
        """Those of the docker-compose.yml files of which the containers were made."""
        column = f'{{{{.Label "{FOLDER_LABEL}"}}}}'
        rows = self.ask("ps", "--all", *self._labelled(NODE_LABEL), "--format", column).splitlines()
        return {Path(row).resolve() for row in rows}

    def remove_networks(self) -> None:
        self._remove("network", NETWORK_LABEL)

    def remove_volumes(self) -> None:
        self._remove("volume", NODE_LABEL)

    def _remove(self, kind: str, label: str) -> None:
        names = self.ask(kind, "ls", "--quiet", *self._labelled(label)).split()
        if names:
            self.ask(kind, "rm", *names)

    def _labelled(self, label: str) -> tuple[str, ...]:
        return (*self._in_project, "--filter", f"label={label}")

    def owns_network(self, labels: Mapping[str, str]) -> bool:
        """Whether a network with these labels belongs to the stack."""
        return labels.get(STACK_LABEL) == self.stack and NETWORK_LABEL in labels

    def ask(self, *arguments: str, gone: str | None = None) -> str:
        """What the docker client answers on stdout. Raises EngineError for a failure, unless it says `gone`."""
        done = subprocess.run(
            [*self._client, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0 and (gone is None or gone not in done.stderr):
            raise refused(f"answer `docker {' '.join(arguments[:2])}`", done.stderr)
        return done.stdout


@contextmanager
def refusals(doing: str) -> Iterator[None]:
    """Turns a failure of python-on-whales into EngineError. `doing`: what it was asked to do."""
    try:
        yield
    except DockerException as error:
        raise refused(doing, error.stderr or "") from None


def refused(doing: str, said: str) -> EngineError:
    """The error for something that the docker client refused."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return EngineError(
        f"Docker fails to {doing}: {lines[-1] if lines else 'it says nothing'}",
        remedy="see `shopfds doctor`, then run it again",
        details="\n".join(lines[-LAST_LINES:-1]),
    )


def waves(needs: Mapping[str, Collection[str]]) -> Iterator[list[str]]:
    """Names in the order in which they stop: dependents come before those that they need."""
    left = dict(needs)
    while left:
        needed = {name for names in left.values() for name in names}
        wave = [name for name in left if name not in needed] or list(left)
        yield wave
        left = {name: names for name, names in left.items() if name not in wave}


def memory(container: str, pid: int | None) -> int | None:
    """Bytes in use by a container, as `docker stats` counts them (which takes it 2 s); None where its control group
    cannot be seen: on other systems than Linux the daemon runs in a virtual machine."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        for line in lines:
            _, controllers, path = line.split(":", maxsplit=2)
            if container not in path:
                continue
            if "memory" in controllers.split(","):
                return _in_use(CGROUPS / "memory" / path[1:], "memory.usage_in_bytes", "total_inactive_file")
            if not controllers:
                return _in_use(CGROUPS / path[1:], "memory.current", "inactive_file")
    except OSError:
        return None
    return None


def _in_use(folder: Path, usage: str, idle: str) -> int:
    statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return max(0, int((folder / usage).read_text()) - int(statistics.get(idle, 0)))


def _container(row: Mapping[str, Any]) -> Container:
    state, health = row["State"], row["State"].get("Health") or {}
    log = health.get("Log") or [{"Output": ""}]
    return Container(
        id=row["Id"],
        name=row["Name"].removeprefix("/"),
        labels=row["Config"]["Labels"],
        status=state["Status"],
        pid=state["Pid"] or None,
        started_at=_time(state["StartedAt"]),
        finished_at=_time(state["FinishedAt"]),
        restarts=row["RestartCount"],
        exit_status=state["ExitCode"],
        error=state["Error"],
        out_of_memory=state["OOMKilled"],
        unhealthy=" ".join(log[-1]["Output"].split()) if state["Pid"] and health.get("Status") == "unhealthy" else None,
    )


def _time(text: str) -> dt.datetime | None:
    """The daemon writes the year 1 for never."""
    moment = dt.datetime.fromisoformat(text)
    return moment if moment.year > 1 else None
