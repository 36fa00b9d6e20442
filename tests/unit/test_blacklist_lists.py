"""Lists of entries as files: what is good is read, what is bad is named by its line, what is written can be read."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.fds.blacklist.entries import Entry, Kind, Target
from services.fds.blacklist.errors import InvalidListError
from services.fds.blacklist.lists import Defaults, ListFormat, Reading, decode, detect, read, write_csv, write_json

NOW = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)
DEFAULTS = Defaults(reason="a list", ttl=dt.timedelta(days=7))


def reading(text: str, format: ListFormat, defaults: Defaults = DEFAULTS) -> Reading:
    return read(text, format, defaults, NOW)


entries = st.lists(
    st.builds(
        Entry,
        target=st.builds(
            Target, st.sampled_from([Kind.user, Kind.device]), st.from_regex(r"[!-~]{1,30}", fullmatch=True)
        ),
        reason=st.from_regex(r"""[a-z"',;{}]{1,10}( [a-z"',;{}]{1,10}){0,3}""", fullmatch=True),
        created_by=st.just("me"),
        created_at=st.just(NOW),
        expires_at=st.one_of(st.none(), st.integers(1, 10**8).map(lambda s: NOW + dt.timedelta(seconds=s))),
    ),
    max_size=10,
)


@given(entries=entries, format=st.sampled_from([ListFormat.csv, ListFormat.json]))
def test_what_is_exported_is_imported_the_same(entries: list[Entry], format: ListFormat) -> None:
    text = "".join((write_csv if format is ListFormat.csv else write_json)(entries))
    assert detect(text, "-") is format
    again = reading(text, format)
    assert not again.bad
    assert [(one.target, one.reason, one.expires_at) for one in again.proposals] == [
        (entry.target, entry.reason, entry.expires_at) for entry in entries
    ]


@given(text=st.text(max_size=200), format=st.sampled_from(ListFormat))
def test_wild_text_is_read_or_refused_by_name(text: str, format: ListFormat) -> None:
    try:
        reading(text, format)
    except InvalidListError as error:
        assert error.what


def test_bad_lines_of_a_csv_are_named_by_their_numbers() -> None:
    text = 'type,value,reason\nip,1.2.3.4,"two\nlines"\nip,1.2.3.400,x\nip,1.1.1.1\nuser,7,ok\nfish,7,x\n'
    found = reading(text, ListFormat.csv)
    assert [one.line for one in found.bad] == [4, 5, 7]
    assert "1.2.3.400" in found.bad[0].problem
    assert "2 cells" in found.bad[1].problem
    assert [one.target.value for one in found.proposals] == ["1.2.3.4", "7"]


def test_bad_elements_of_a_json_are_named_by_their_numbers() -> None:
    found = reading('["1.2.3.4", 7, {"type": "ip", "value": "x"}, {"value": "a@b.com", "ttl": 5}]', ListFormat.json)
    assert [one.line for one in found.bad] == [2, 3, 4]


def test_a_plain_list_shows_its_types_and_has_comments() -> None:
    found = reading("# feed\n1.2.3.4 # seen twice\n\n2001:db8::/32\nmailinator.com\n411111\n", ListFormat.plain)
    assert [str(one.target) for one in found.proposals] == [
        "ip 1.2.3.4",
        "ip 2001:db8::/32",
        "email_domain mailinator.com",
        "card_bin 411111",
    ]
    assert {one.expires_at for one in found.proposals} == {NOW + dt.timedelta(days=7)}


def test_a_line_s_own_life_and_reason_win_over_the_defaults() -> None:
    text = "value,ttl,reason\n1.1.1.1,4h,mine\n1.1.1.2,permanent,\n1.1.1.3,,\n"
    found = reading(text, ListFormat.csv).proposals
    assert [one.expires_at for one in found] == [NOW + dt.timedelta(hours=4), None, NOW + dt.timedelta(days=7)]
    assert [one.reason for one in found] == ["mine", "a list", "a list"]


def test_lines_whose_time_is_over_are_counted_and_left_out() -> None:
    found = reading("value,expires_at\n1.1.1.1,2020-01-01T00:00:00+00:00\n", ListFormat.csv)
    assert (found.proposals, found.bad, found.expired) == ((), (), 1)


@pytest.mark.parametrize(
    ("text", "format", "said"),
    [
        ("value,reasn\n1.1.1.1,x\n", ListFormat.csv, "reasn"),
        ("type,reason\nip,x\n", ListFormat.csv, "must name 'value'"),
        ("[1, 2", ListFormat.json, "not JSON"),
        ('{"a": 1}', ListFormat.json, "neither a list nor an export"),
    ],
)
def test_a_file_of_another_kind_is_refused(text: str, format: ListFormat, said: str) -> None:
    with pytest.raises(InvalidListError, match=said):
        reading(text, format)


def test_a_file_that_is_not_text_is_refused_with_its_line() -> None:
    with pytest.raises(InvalidListError, match="line 2"):
        decode(b"1.1.1.1\n\xff\xfe\n", "list.txt")


def test_the_format_is_seen_from_extension_or_content() -> None:
    assert detect("x", "a.CSV") is ListFormat.csv
    assert detect(' [{"value": "x"}]', "-") is ListFormat.json
    assert detect("type,value\n", "-") is ListFormat.csv
    assert detect("1.1.1.1\n", "list.txt") is ListFormat.plain
