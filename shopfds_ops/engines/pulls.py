"""Images from a registry: pulled, the registry's answer awaited for a while, and a refusal named by its cause."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Sequence

from shopfds_ops.engines.watched import ended_with_us, failure, follow_lines
from shopfds_ops.errors import EngineError
from shopfds_ops.events import Progress, Sink

ANSWER_SECONDS = 30.0
"""In which a registry says something. The daemon waits for 15 s for each of its connections, and for layers forever."""
NETWORK_REMEDY = "check the network; or take them from a machine that has them: `shopfds images save`, `load`"

# What follows is looked for in lower case. No name of an image can be taken for it: it has no spaces.
NETWORK = re.compile(
    r"(dial|read|write|proxyconnect) tcp|no such host|name resolution|server misbehaving|connection (refused|reset)"
    r"|broken pipe|is unreachable|no route to host|(i/o|handshake) timeout|timed out|timeout (exceeded|awaiting)"
    r"|deadline exceeded|request canceled|(^|\s)(tls|x509): |http response to https client|(:|unexpected) eof$"
    r"|bad gateway|service unavailable|gateway timeout",
    re.MULTILINE,
)
"""The daemon did not get through to the registry, or the registry is out of order."""
REFUSALS = (
    (
        r"docker daemon|dial unix|error during connect",
        "Docker's daemon does not answer",
        "`shopfds doctor` says more",
    ),
    (
        r"(^|\s)toomanyrequests: |too many requests|rate limit ",
        "the registry allows no more pulls for now",
        "wait for a while, or get a larger share: `docker login`",
    ),
    (
        r"(^|\s)(denied|unauthorized): |access denied for |no basic auth|authentication required|401 unauthorized"
        r"|(403|:) forbidden|error getting credentials",
        "the registry does not give it to you",
        "`docker login`; or name another image in the settings (images.*)",
    ),
)
ABSENT = (
    r"(manifest|name) unknown|\snot found|no matching manifest|does not exist",
    "the registry has no such image for this machine",
    "name another one in the settings (images.*)",
)


class UnreachableError(EngineError):
    """The registry did not answer. Every other failure of a pull is for the operator to decide on."""


def pull(docker: Sequence[str], references: Sequence[str], sink: Sink) -> None:
    """Pull images one after the other. `docker` is the command that reaches the daemon.

    Raises UnreachableError where the registry does not answer, and EngineError with the cause where it refuses.
    """
    for reference in references:
        _pull(docker, reference, sink)
        sink(Progress(f"pull {reference}", 1, 1))


def refusal(reference: str, lines: Sequence[str]) -> EngineError:
    """The error for a pull that failed with these last lines of output."""
    said = "\n".join(lines).lower()
    what = f"{reference} could not be pulled"
    for pattern, cause, remedy in REFUSALS:
        if re.search(pattern, said, re.MULTILINE):
            return failure(f"{what}: {cause}", remedy, lines)
    if NETWORK.search(said):
        return UnreachableError(f"{what}: no registry answers", remedy=NETWORK_REMEDY, details="\n".join(lines))
    pattern, cause, remedy = ABSENT
    if re.search(pattern, said):
        return failure(f"{what}: {cause}", remedy, lines)
    return failure(what, "the last line says why", lines)


def _pull(docker: Sequence[str], reference: str, sink: Sink) -> None:
    progress = _Layers(f"pull {reference}", sink)
    with ended_with_us([*docker, "image", "pull", reference], stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None  # noqa: S101  a pipe, by the call above
        patience = threading.Timer(ANSWER_SECONDS, process.kill)
        patience.start()

        def follow(line: str) -> None:
            patience.cancel()
            progress(line)

        try:
            last = follow_lines(process.stdout, follow)
        finally:
            patience.cancel()
    if process.returncode == 0:
        return
    raise refusal(reference, last or [f"the registry's answer timed out after {ANSWER_SECONDS:.0f} s"])


class _Layers:
    """The output of docker pull as progress, layer by layer."""

    def __init__(self, name: str, sink: Sink) -> None:
        self._name = name
        self._sink = sink
        self._layers: set[str] = set()
        self._done: set[str] = set()

    def __call__(self, line: str) -> None:
        layer, _, state = line.partition(": ")
        if state in ("Pulling fs layer", "Already exists"):
            self._layers.add(layer)
        if state in ("Pull complete", "Already exists"):
            self._done.add(layer)
            if len(self._done) < len(self._layers):
                self._sink(Progress(self._name, len(self._done), len(self._layers), "layers"))
