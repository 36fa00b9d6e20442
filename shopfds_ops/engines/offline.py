"""Making offline images: a base system by debootstrap, then the servers' packages by images/Dockerfile."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shopfds_ops.engines import images, packages
from shopfds_ops.engines.images import OFFLINE, SERVERS, Release
from shopfds_ops.engines.watched import ended_with_us, failure, follow_lines, watch
from shopfds_ops.errors import EngineError
from shopfds_ops.events import Progress, Sink, TaskEvent
from shopfds_ops.settings import Images

RECIPE_LABEL = "shopfds.recipe"
"""On every image made here: which Dockerfile it was made by."""
CONTENT_LABEL = "shopfds.content"
"""On every image made here, and all that it is made on: the digest in its name."""
VERSION_LABEL = "org.opencontainers.image.version"
ELSEWHERE = (
    "on a machine with Debian or Ubuntu: `shopfds images build`, `shopfds images save`; here: `shopfds images load`"
)
NETWORK_REMEDY = "check the network, or name a package mirror that answers: `shopfds config set images.mirror URL`"

UNUSED = (
    *("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*", "var/log/*"),
    *(f"usr/share/{folder}/*" for folder in ("doc", "man", "info", "locale")),
)
"""Files of the base system that are not imported."""
# In memory, in a mount namespace of its own: whatever ends it, nothing is left behind, neither files nor mounts.
BOOTSTRAP = """
mount -t tmpfs -o mode=755 shopfds-base /mnt
debootstrap --variant=minbase --force-check-gpg $1 "$2" /mnt "$3" >&2
shift 3
exec tar --create --directory=/mnt --numeric-owner "$@" .
"""
PACKAGES = r"dpkg-query --show --showformat '${Package} ${Version}\n' 'postgresql-[0-9]*' redis-server rabbitmq-server"


def build(docker: Sequence[str], settings: Images, sink: Sink, *, force: bool = False) -> None:
    """Make the images that `images.offline_references` names. `docker` is the command that reaches the daemon.

    The base and the layer of packages that were made before are used again, unless `force`.
    Raises EngineError where that cannot be done here.
    """
    release = images.release()
    if release is None:
        raise EngineError(
            "offline images are made of Debian's or Ubuntu's packages, on such a machine", remedy=ELSEWHERE
        )
    _require_debootstrap()
    sources = package_sources(settings, release)
    base = f"{OFFLINE}/base:{images.digest(release.suite, *sources, *UNUSED)}"
    if force or not _is_here(docker, base):
        _make_base(docker, base, release, sources, sink)
    references = images.offline_references(settings)
    content = references["postgres"].rpartition(":")[2]
    servers = f"{OFFLINE}/servers:{content}"
    arguments = [f"--build-arg=BASE={base}", "--build-arg=SOURCES=" + "\n".join(sources)]
    with _told("server packages", release.suite, sink):
        follow = AptProgress("server packages", sink)
        _make(docker, "servers", servers, [*arguments, *(["--no-cache"] if force else [])], follow)
    versions = server_versions(
        _run(docker, "run", "--rm", "--network=none", "--entrypoint=sh", servers, "-c", PACKAGES)
    )
    labels = {RECIPE_LABEL: images.digest(images.recipe().read_text()), CONTENT_LABEL: content}
    for server in SERVERS:
        own = labels | {VERSION_LABEL: images.version_text(versions[server])}
        with _told(f"image {server}", own[VERSION_LABEL], sink):
            labelled = [f"--label={name}={value}" for name, value in own.items()]
            _make(docker, server, references[server], [*arguments, *labelled], lambda _: None)
    # What was replaced now, and what interrupted builds left; not what a container still uses.
    _run(docker, "image", "prune", "--force", f"--filter=label={CONTENT_LABEL}")


def package_sources(settings: Images, release: Release) -> list[str]:
    """Where packages come from, as lines of sources.list: the mirror of the settings, else what this machine uses."""
    if settings.mirror is not None:
        return [f"deb {settings.mirror} {release.suite} {' '.join(release.components)}"]
    template = "$(ORIGIN)\t$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)"
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", template, "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = distribution_sources(targets.stdout.splitlines(), release)
    if not any(f" {release.suite} " in line for line in found):
        raise EngineError(
            f"this machine's apt knows no packages of {release.suite}",
            remedy="name a package mirror: `shopfds config set images.mirror URL`",
        )
    return found


def distribution_sources(targets: Iterable[str], release: Release) -> list[str]:
    """The lines of sources.list for apt's targets (origin, address, suite, component by tabs) that are the release's
    own: other archives have keys that the base system does not know."""
    suites = {release.suite, f"{release.suite}-updates", f"{release.suite}-security"}
    components: dict[tuple[str, str], list[str]] = {}
    for target in targets:
        origin, address, suite, component = target.split("\t")
        # Before the first `apt-get update` the origin is not known.
        if origin.lower() in (release.distribution, "") and suite in suites and component in release.components:
            components.setdefault((_address(address), suite), []).append(component)
    return [f"deb {address} {suite} {' '.join(parts)}" for (address, suite), parts in components.items()]


def server_versions(listing: str) -> dict[str, tuple[int, ...]]:
    """The servers' versions, from lines of package and version such as 'redis-server 5:7.0.15-1'."""
    found: dict[str, tuple[int, ...]] = {}
    for line in listing.splitlines():
        match = re.match(r"(postgresql|redis|rabbitmq)(?:-\d+|-server) (?:\d+:)?([0-9.]+)", line)
        if match is not None:
            found[match[1].replace("postgresql", "postgres")] = images.version(match[2].rstrip("."))
    return found


class AptProgress:
    """The output of apt-get as progress: each package is got, unpacked and set up."""

    def __init__(self, name: str, sink: Sink) -> None:
        self._name = name
        self._sink = sink
        self._done = self._total = 0

    def __call__(self, line: str) -> None:
        if match := re.search(r"\b(\d+) newly installed", line):
            self._total = 3 * int(match[1])
        elif self._total and self._done < self._total and re.search(r"(^| )(Get:\d|Unpacking |Setting up )", line):
            self._done += 1
            self._sink(Progress(self._name, self._done, self._total, "steps"))


class BootstrapProgress:
    """The output of debootstrap as progress: how many packages there are is known once all were got."""

    def __init__(self, name: str, sink: Sink) -> None:
        self._name = name
        self._sink = sink
        self._got = self._done = 0

    def __call__(self, line: str) -> None:
        match = re.match(r"I: (Retrieving|Validating|Extracting|Unpacking|Configuring) \S", line)
        if match is None:
            return
        self._done += 1
        self._got += match[1] == "Retrieving"
        total = 5 * self._got if match[1] in ("Extracting", "Unpacking", "Configuring") else 0
        if not total or self._done < total:
            self._sink(Progress(self._name, self._done, total, "steps"))


def _make_base(docker: Sequence[str], base: str, release: Release, sources: Sequence[str], sink: Sink) -> None:
    """Import a new base system; it gets its name only when it is complete."""
    mirror = next(line.split()[1] for line in sources if f" {release.suite} " in line)
    include = ["--include=ca-certificates"] if any("https:" in line for line in sources) else []
    components = f"--components={','.join(release.components)}"
    argv = [
        *packages.as_root("making a base system", "shopfds images build"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", BOOTSTRAP, "sh"),
        *(" ".join([components, *include]), release.suite, mirror),
        *(f"--exclude=./{path}" for path in UNUSED),
    ]
    with _told("base system", f"{release.distribution} {release.suite}", sink):
        with ended_with_us(argv) as bootstrap:
            assert bootstrap.stdout is not None and bootstrap.stderr is not None  # noqa: S101  pipes
            label = f"--change=LABEL {CONTENT_LABEL}={base.rpartition(':')[2]}"
            with ended_with_us([*docker, "import", label, "-"], stdin=bootstrap.stdout) as importing:
                bootstrap.stdout.close()  # tar must notice when nobody reads any more
                last = follow_lines(bootstrap.stderr, BootstrapProgress("base system", sink))
                identity, refusal = importing.communicate()
        if importing.returncode != 0:
            raise failure("the base system could not be imported", NETWORK_REMEDY, refusal.decode().splitlines())
        if bootstrap.returncode != 0:
            _run(docker, "image", "rm", identity.decode().strip())
            raise failure(f"debootstrap could not make a base system of {release.suite}", NETWORK_REMEDY, last)
        _run(docker, "tag", identity.decode().strip(), base)


def _make(
    docker: Sequence[str], target: str, reference: str, arguments: Sequence[str], follow: Callable[[str], None]
) -> None:
    """Build one target of the Dockerfile. It gets its name only when it is complete."""
    argv = [
        *docker,
        # The network of this machine, on which the package sources were found to answer.
        *("build", "--network=host", "--force-rm", f"--target={target}", f"--tag={reference}"),
        # By name only: docker takes their values from the environment, where passwords stay.
        *(f"--build-arg={name}" for name in ("http_proxy", "https_proxy", "no_proxy")),
        *arguments,
        "-",
    ]
    # BuildKit, where it is there: on the daemon itself, since other builders do not know the base system.
    environment = {"BUILDX_BUILDER": "default", "BUILDKIT_PROGRESS": "plain"}
    what = f"offline image '{target}' could not be made"
    watch(argv, follow, what=what, remedy=NETWORK_REMEDY, stdin=images.recipe(), environment=environment)


def _require_debootstrap() -> None:
    if shutil.which("debootstrap") is None and not Path("/usr/sbin/debootstrap").exists():
        packages.apt_install(["debootstrap"], "debootstrap is not installed")


def _is_here(docker: Sequence[str], reference: str) -> bool:
    argv = [*docker, "image", "inspect", "--format={{.Id}}", reference]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _run(docker: Sequence[str], *arguments: str) -> str:
    done = subprocess.run([*docker, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise failure(f"`docker {arguments[0]}` failed", "the last lines say why", done.stderr.splitlines()[-5:])
    return done.stdout


def _address(address: str) -> str:
    """An address that debootstrap knows too: of apt's lists of mirrors, the first one."""
    if address.startswith("mirror+file:"):
        return Path(address.removeprefix("mirror+file:").rstrip("/")).read_text().split()[0]
    return address


@contextmanager
def _told(name: str, detail: str, sink: Sink) -> Iterator[None]:
    began = time.monotonic()
    sink(TaskEvent(name, "started", detail))
    yield
    sink(Progress(name, 1, 1))
    sink(TaskEvent(name, "done", detail, time.monotonic() - began))
