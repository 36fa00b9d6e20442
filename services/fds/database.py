"""The declarative base of all models in the schema `fds`."""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase

from services.common import database


class Base(DeclarativeBase):
    """A table of the fraud detection service."""

    metadata = database.schema("fds")
    type_annotation_map = database.TYPES
