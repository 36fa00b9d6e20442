"""The declarative base of all models in the schema `ecommerce`."""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase

from services.common import database


class Base(DeclarativeBase):
    """A table of the shop."""

    metadata = database.schema("ecommerce")
    type_annotation_map = database.TYPES
