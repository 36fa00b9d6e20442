"""What RabbitMQ's Prometheus plugin says: the text format of a scrape, read into figures by name and labels.

RabbitMQ computes a scrape when it is asked, so there are figures from the first moment; the management API samples
every 5 s, and has none before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

NODE = "/metrics"
"""Figures of the node, and sums over its connections and queues."""
PER_OBJECT = "/metrics/per-object"
"""The same with one sample per queue, connection and channel (documented since RabbitMQ 3.9), but without alarms."""

_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?[ \t]+(?P<value>\S+)(?:[ \t]+\S+)?", re.ASCII)
_LABEL = re.compile(r'(?P<name>[a-zA-Z_]\w*)="(?P<value>(?:[^"\\]|\\.)*)"', re.ASCII)
_ESCAPED = re.compile(r"\\(.)")


class Scrape:
    """The samples of one scrape. Lines that are no sample are passed over."""

    def __init__(self, text: str) -> None:
        self._samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        # Not splitlines(): a label may hold characters that it takes for the end of a line.
        for line in text.split("\n"):
            sample = _SAMPLE.fullmatch(line.strip())
            if sample is None:
                continue
            try:
                value = float(sample["value"])
            except ValueError:
                continue
            if math.isfinite(value):
                self._samples.setdefault(sample["name"], []).append((_labels(sample["labels"] or ""), value))

    def labels(self, name: str) -> Mapping[str, str]:
        """The labels of the first sample of `name`; empty when there is none."""
        found = self._samples.get(name)
        return found[0][0] if found else {}

    def figure(self, name: str, **labels: str) -> float | None:
        """The sample of `name` that has these labels (and maybe more); None when it was not measured."""
        for found, value in self._samples.get(name, ()):
            if labels.items() <= found.items():
                return value
        return None

    def count(self, name: str, **labels: str) -> int | None:
        """The figure as a whole number: bytes, messages, consumers."""
        value = self.figure(name, **labels)
        return None if value is None else round(value)


def _labels(text: str) -> Mapping[str, str]:
    return {
        label["name"]: _ESCAPED.sub(lambda escaped: "\n" if escaped[1] == "n" else escaped[1], label["value"])
        for label in _LABEL.finditer(text)
    }
