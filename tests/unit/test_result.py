"""Results: plain JSON of every type we return, and an envelope that programs may rely on."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import json
import pathlib
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shopfds_ops.result import Message, Result, Table, jsonable


class Colour(enum.Enum):
    RED = "red"


class Mode(enum.StrEnum):
    FAST = "fast"


@dataclasses.dataclass(frozen=True, slots=True)
class Inner:
    at: dt.datetime
    price: decimal.Decimal


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inners: tuple[Inner, ...]
    by_name: Mapping[str, Inner]
    nothing: None = None


AT = dt.datetime(2026, 11, 23, 14, 0, tzinfo=dt.timezone(dt.timedelta(hours=9)))


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (1.5, 1.5),
        ("text", "text"),
        (AT, "2026-11-23T05:00:00+00:00"),
        (AT.date(), "2026-11-23"),
        (dt.timedelta(minutes=1.5), 90.0),
        (decimal.Decimal("10.50"), "10.50"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        (Mode.FAST, "fast"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
        (ipaddress.ip_address("::1"), "::1"),
        ([1, (2, AT.date())], [1, [2, "2026-11-23"]]),
        ({7: Colour.RED}, {"7": "red"}),
        (MappingProxyType({"a": (1,)}), {"a": [1]}),
        ({1}, [1]),
        (frozenset(), []),
    ],
)
def test_every_type_becomes_plain(value: Any, plain: Any) -> None:
    found = jsonable(value)
    assert found == plain
    assert type(found) is type(plain)


def test_dataclasses_become_plain_to_their_depths() -> None:
    inner = Inner(AT, decimal.Decimal("1.00"))
    plain = {"at": "2026-11-23T05:00:00+00:00", "price": "1.00"}
    assert jsonable(Outer("x", (inner,), {"k": inner})) == {
        "name": "x",
        "inners": [plain],
        "by_name": {"k": plain},
        "nothing": None,
    }


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.datetimes(timezones=st.just(dt.UTC))
    | st.uuids()
    | st.ip_addresses()
    | st.timedeltas()
    | st.sampled_from([Colour.RED, Mode.FAST])
)


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner), max_leaves=8))
def test_whatever_is_returned_survives_json(value: Any) -> None:
    plain = jsonable(value)
    assert json.loads(json.dumps(plain)) == plain


def test_the_envelope_has_the_keys_that_programs_know() -> None:
    result = Result("status", {"a": Colour.RED}, (Table("t", ("c",), (("x",),)),), (Message("ok", "fine", "go on"),))
    assert result.envelope() == {
        "version": 1,
        "command": "status",
        "ok": True,
        "exit_code": 0,
        "messages": [{"level": "ok", "text": "fine", "remedy": "go on"}],
        "data": {"a": "red"},
    }


@pytest.mark.parametrize("code", [1, 2, 130])
def test_a_result_that_is_not_well_says_so(code: int) -> None:
    envelope = Result("status", exit_code=code).envelope()
    assert envelope["ok"] is False
    assert envelope["exit_code"] == code
    assert list(envelope) == list(Result("other").envelope())
