"""What may be on the blacklist: one canonical form of every value, and nothing else gets in."""

from __future__ import annotations

import datetime as dt
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.fds.blacklist.durations import LONGEST, format_duration, parse_duration
from services.fds.blacklist.entries import Entry, Kind, Order, Target, guess_kind
from services.fds.blacklist.errors import InvalidValueError
from services.fds.blacklist.keys import (
    BUCKET_SLOTS,
    BUCKETS,
    SLOTS,
    Lengths,
    bucket_of,
    decode,
    encode,
    key_of,
    questions,
    target_of,
)

NOW = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True).filter(lambda text: text[2:4] != "--")
domains = st.builds(
    lambda parts, end: ".".join([*parts, end]), st.lists(labels, min_size=1, max_size=5), st.just("com")
)
networks = st.one_of(
    st.builds(
        lambda address, length: ipaddress.ip_network((address, length), strict=False),
        st.ip_addresses(v=4),
        st.integers(1, 31),
    ),
    st.builds(
        lambda address, length: ipaddress.ip_network((address, length), strict=False),
        st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None),
        st.integers(1, 127),
    ),
)
wild = st.one_of(st.text(max_size=80), st.from_regex(r"[0-9a-f.:/%@-]{1,50}", fullmatch=True))


@given(kind=st.sampled_from(Kind), text=wild)
def test_wild_text_is_either_an_entry_or_refused_by_name(kind: Kind, text: str) -> None:
    try:
        target = Target.parse(kind, text)
    except InvalidValueError as error:
        assert error.what
        return
    assert target.value.isascii()
    assert Target.parse(kind, target.value) == target


@given(address=st.ip_addresses())
def test_the_canonical_form_of_an_address_is_its_own_canonical_form(address: ipaddress.IPv4Address) -> None:
    target = Target.parse(Kind.ip, str(address))
    assert Target.parse(Kind.ip, target.value) == target
    assert Target.parse(Kind.ip, str(address.exploded)) == target


@given(address=st.ip_addresses(v=4))
def test_an_ipv4_address_seen_through_an_ipv6_socket_is_the_same_value(address: ipaddress.IPv4Address) -> None:
    assert Target.parse(Kind.ip, f"::ffff:{address}") == Target.parse(Kind.ip, str(address))


@given(network=networks, data=st.data())
def test_an_address_in_a_range_asks_for_that_range(network: ipaddress.IPv4Network, data: st.DataObject) -> None:
    number = data.draw(st.integers(int(network.network_address), int(network.broadcast_address)))
    address = type(network.network_address)(number)
    entry = Target.parse(Kind.ip, str(network))
    target = Target.parse(Kind.ip, str(address))
    if target.value == str(address):  # not one that is IPv4 in truth
        assert entry in questions(target, Lengths.of([entry]))
        assert entry in questions(target, Lengths.every())


@given(network=networks, address=st.ip_addresses())
def test_an_address_outside_a_range_never_asks_for_it(network: ipaddress.IPv4Network, address: object) -> None:
    target = Target.parse(Kind.ip, str(address))
    inside = ipaddress.ip_address(target.value) in network
    assert (Target(Kind.ip, str(network)) in questions(target, Lengths.every())) == inside


@given(domain=domains, sub=st.lists(labels, min_size=1, max_size=3))
def test_a_subdomain_and_its_addresses_ask_for_the_domain(domain: str, sub: list[str]) -> None:
    entry = Target.parse(Kind.email_domain, domain)
    deeper = ".".join([*sub, domain])
    assert entry in questions(Target.parse(Kind.email_domain, deeper.upper()), Lengths())
    assert entry in questions(Target.parse(Kind.email, f"Some.One@{deeper}"), Lengths())


@given(domain=domains, prefix=labels)
def test_a_longer_name_that_only_ends_alike_is_another_domain(domain: str, prefix: str) -> None:
    assert Target(Kind.email_domain, domain) not in questions(Target(Kind.email_domain, prefix + domain), Lengths())


@given(digits=st.from_regex(r"[0-9]{8}", fullmatch=True), length=st.sampled_from([6, 7, 8]))
def test_an_eight_digit_bin_is_covered_by_shorter_ones(digits: str, length: int) -> None:
    assert Target(Kind.card_bin, digits[:length]) in questions(Target.parse("bin", digits), Lengths())


def test_a_short_bin_is_not_covered_by_longer_ones() -> None:
    assert questions(Target.parse("bin", "411111"), Lengths()) == [Target(Kind.card_bin, "411111")]


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("ip", "10.1.2.3/8", "10.0.0.0/8"),
        ("ip", "2001:db8::1/32", "2001:db8::/32"),
        ("ip", "fe80::1%eth0", "zone"),
        ("ip", "1.2.3.256", "1.2.3.256"),
        ("ip", "01.2.3.4", "01.2.3.4"),
        ("ip", "0.0.0.0/0", "every address"),
        ("ip", "10.0.0.0/33", "between 1 and 32"),
        ("ip", "10.0.0.0/255.0.0.0", "prefix length"),
        ("card_bin", "41111", "6 to 8"),
        ("card_bin", "4111 11", "6 to 8"),
        ("email_domain", "localhost", "mail.example.com"),
        ("email_domain", "exa mple.com", "exa mple.com"),
        ("email_domain", "-a.com", "-a.com"),
        ("email_domain", "10.0.0.1", "--ip"),
        ("email", "someone", "someone@example.com"),
        ("email", "a b@example.com", "a b@example.com"),
        ("user", "", "1 to 128"),
        ("device", "x" * 129, "1 to 128"),
        ("planet", "x", "types: ip"),
    ],
)
def test_a_refusal_names_the_value_or_says_what_is_right(kind: str, text: str, said: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        Target.parse(kind, text)
    assert said in f"{caught.value.what} {caught.value.remedy}"


def test_a_whole_card_number_is_not_repeated_in_the_error() -> None:
    with pytest.raises(InvalidValueError) as caught:
        Target.parse("bin", "4111111111111111")
    assert "4111111111" not in f"{caught.value.what} {caught.value.remedy}"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("ip", " 2001:DB8::0001 ", "2001:db8::1"),
        ("ip", "203.0.113.7/32", "203.0.113.7"),
        ("ip", "::ffff:203.0.113.0/120", "203.0.113.0/24"),
        ("range", "2001:DB8::/32", "2001:db8::/32"),
        ("email_domain", "M\u00fcnchen.DE.", "xn--mnchen-3ya.de"),
        ("email", "Some.One+tag@M\u00fcnchen.de", "some.one+tag@xn--mnchen-3ya.de"),
        ("user", "A-7", "A-7"),
    ],
)
def test_every_value_has_one_form(kind: str, text: str, value: str) -> None:
    assert Target.parse(kind, text).value == value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("203.0.113.7", Kind.ip),
        ("2001:db8::/32", Kind.ip),
        ("a@b.com", Kind.email),
        ("411111", Kind.card_bin),
        ("b.com", Kind.email_domain),
    ],
)
def test_a_bare_value_shows_its_type(text: str, kind: Kind) -> None:
    assert guess_kind(text) is kind


def test_a_bare_value_that_may_be_anything_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="does not say"):
        guess_kind("4711-x")


def test_a_malformed_value_of_an_order_is_refused_and_not_passed_over() -> None:
    with pytest.raises(InvalidValueError, match="not-an-ip"):
        Order(ip="not-an-ip", user="7").targets()


@given(text=st.text(max_size=20))
def test_a_wild_duration_is_a_duration_or_refused(text: str) -> None:
    try:
        duration = parse_duration(text)
    except InvalidValueError:
        return
    assert duration is None or dt.timedelta(0) < duration <= LONGEST


@given(days=st.integers(0, 400), hours=st.integers(0, 23), minutes=st.integers(1, 59))
def test_durations_add_up(days: int, hours: int, minutes: int) -> None:
    duration = dt.timedelta(days=days, hours=hours, minutes=minutes)
    assert parse_duration(f"{days}d{hours}h{minutes}m") == duration


def test_durations_read_as_they_are_written() -> None:
    assert [format_duration(parse_duration(text)) for text in ("7d", "4h", "90m", "permanent", "1w")] == [
        "7d",
        "4h",
        "1h30m",
        "permanent",
        "7d",
    ]


@given(
    kind=st.sampled_from(Kind),
    value=st.from_regex(r"[!-~]{1,40}", fullmatch=True),
    reason=st.text(min_size=1, max_size=50),
    seconds=st.one_of(st.none(), st.integers(1, 10**9)),
)
def test_an_entry_survives_the_copy(kind: Kind, value: str, reason: str, seconds: int | None) -> None:
    expires = None if seconds is None else NOW + dt.timedelta(seconds=seconds)
    entry = Entry(Target(kind, value), reason, "me", NOW, expires)
    assert decode(entry.target, encode(entry).encode()) == entry
    assert target_of(key_of(entry.target)) == entry.target


def test_an_entry_ends_at_its_time_and_not_after() -> None:
    entry = Entry(Target(Kind.user, "7"), "r", "me", NOW, NOW + dt.timedelta(seconds=1))
    assert entry.active(NOW)
    assert not entry.active(NOW + dt.timedelta(seconds=1))


def test_buckets_lie_evenly_over_the_slots_so_that_every_master_has_its_share() -> None:
    for masters in (3, 4, 6):
        shares = [slot * masters // SLOTS for slot in BUCKET_SLOTS]
        assert [shares.count(master) for master in range(masters)] == [BUCKETS // masters] * masters


def test_entries_spread_over_all_buckets() -> None:
    counts = [0] * BUCKETS
    for number in range(12_000):
        counts[bucket_of("ip", f"10.0.{number >> 8}.{number & 255}")] += 1
    assert min(counts) > 800
    assert max(counts) < 1200


@given(v4=st.sets(st.integers(1, 31)), v6=st.sets(st.integers(1, 127)))
def test_a_marker_tells_the_lengths_that_were_put_in(v4: set[int], v6: set[int]) -> None:
    lengths = Lengths(tuple(sorted(v4, reverse=True)), tuple(sorted(v6, reverse=True)))
    assert Lengths.parse(str(lengths)) == lengths
    assert Lengths.every().covers(lengths)
