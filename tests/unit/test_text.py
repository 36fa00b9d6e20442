"""Figures as people read them, and moments as people write them."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shopfds_ops.errors import UsageError
from shopfds_ops.text import bytes_text, parse_since, seconds_text, uptime_text

NOW = dt.datetime(2026, 11, 23, 14, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (3 * 2**30, "3.0 GiB"),
        (5000 * 2**30, "5000.0 GiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_bytes_are_shown_with_their_unit(count: int, text: str) -> None:
    assert bytes_text(count) == text


def test_what_was_not_measured_is_unknown_and_never_zero() -> None:
    assert bytes_text(None) == seconds_text(None) == "unknown"
    assert seconds_text(0.0) == "0.0 s"


@given(st.integers(-(2**70), 2**70))
def test_every_size_has_a_unit(count: int) -> None:
    assert bytes_text(count).split()[1] in {"B", "KiB", "MiB", "GiB"}


@pytest.mark.parametrize(
    ("ago", "text"),
    [
        (dt.timedelta(0), "0s"),
        (dt.timedelta(seconds=59), "59s"),
        (dt.timedelta(minutes=5, seconds=12), "5m 12s"),
        (dt.timedelta(hours=2), "2h"),
        (dt.timedelta(days=3, hours=4, minutes=5), "3d 4h"),
        (dt.timedelta(seconds=-30), "0s"),
    ],
)
def test_uptime_shows_its_two_largest_units(ago: dt.timedelta, text: str) -> None:
    assert uptime_text(NOW - ago, NOW) == text


def test_a_node_that_does_not_run_has_no_uptime() -> None:
    assert uptime_text(None, NOW) == "-"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - dt.timedelta(seconds=90)),
        ("10m", NOW - dt.timedelta(minutes=10)),
        (" 2h ", NOW - dt.timedelta(hours=2)),
        ("1d", NOW - dt.timedelta(days=1)),
        ("2026-11-23T13:00", NOW - dt.timedelta(hours=1)),
        ("2026-11-23 13:00:00", NOW - dt.timedelta(hours=1)),
        ("2026-11-23T14:00+02:00", NOW - dt.timedelta(hours=2)),
        ("2026-11-23", NOW - dt.timedelta(hours=14)),
    ],
)
def test_a_moment_is_a_duration_ago_or_a_time_in_utc(text: str, moment: dt.datetime) -> None:
    assert parse_since(text, NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "10", "m", "yesterday", "-5m", "1.5h", "5 m", "10M", "2026-13-01", "9" * 5000 + "s"]
)
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_since(text, NOW)
    assert text in caught.value.what


def test_a_moment_before_all_time_is_refused() -> None:
    with pytest.raises(UsageError, match="too long ago"):
        parse_since("99999999999d", NOW)


@given(st.text(max_size=20))
def test_whatever_is_typed_it_is_a_moment_with_a_zone_or_a_usage_error(text: str) -> None:
    try:
        assert parse_since(text, NOW).tzinfo is not None
    except UsageError as error:
        assert error.exit_code == 2
