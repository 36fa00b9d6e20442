"""Container images: references, versions, and what we rely on in them."""

from __future__ import annotations

from shopfds_ops.engines.images import registry
from shopfds_ops.settings import Images


def test_versions_are_read_from_tags_and_digests() -> None:
    pinned = Images(postgres="reg.example:5000/postgres:16.4-alpine3", redis=f"redis:7.4@sha256:{'0f' * 32}")
    assert registry(pinned).versions["postgres"] == (16, 4)
    assert registry(pinned).versions["redis"] == (7, 4)
