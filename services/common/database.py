"""What all SQLAlchemy models of the services share: one schema per service, and one convention for constraint names."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Iterable
from typing import Annotated, Any

from sqlalchemy import BigInteger, DateTime, Identity, MetaData, Numeric, func
from sqlalchemy.orm import mapped_column

NAMING_CONVENTION = {
    "pk": "%(table_name)s_pkey",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
}
"""The names PostgreSQL itself would give: an error message or a migration can always name its constraint."""

TYPES: dict[Any, Any] = {
    int: BigInteger,
    decimal.Decimal: Numeric(12, 2),
    dt.datetime: DateTime(timezone=True),
}
"""Column types by annotation: 64-bit integers, money with two places, times with a time zone."""

BigId = Annotated[int, mapped_column(BigInteger, Identity(always=True), primary_key=True)]
"""A key the database hands out. ALWAYS: no INSERT can smuggle in an id that the sequence has yet to reach; COPY may."""

CreatedAt = Annotated[dt.datetime, mapped_column(DateTime(timezone=True), server_default=func.now())]


def one_of(column: str, words: Iterable[str]) -> str:
    """A CHECK expression: the column holds one of these words."""
    listed = ", ".join(f"'{word}'" for word in words)
    return f"{column} IN ({listed})"


def schema(name: str) -> MetaData:
    """The metadata of one service: its tables live in the schema `name`."""
    return MetaData(schema=name, naming_convention=NAMING_CONVENTION)
