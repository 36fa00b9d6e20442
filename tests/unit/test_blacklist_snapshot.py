"""The snapshot of the blacklist: the same answers as a model that looks at every entry, and quickly."""

from __future__ import annotations

import datetime as dt
import ipaddress
import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from services.fds.blacklist.entries import Entry, Kind, Order, Target
from services.fds.blacklist.keys import from_unix_ms
from services.fds.blacklist.snapshot import Snapshot

NOW = 1_795_449_533_378
CREATED = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)

# Few of each, close together: so that ranges nest, domains are above one another, and values are listed again.
v4 = st.builds(
    lambda number, length: ipaddress.ip_network((0xC0000200 + number, length), strict=False),
    st.integers(0, 15),
    st.integers(1, 32),
)
v6 = st.builds(
    lambda number, length: ipaddress.ip_network((number, length), strict=False),
    st.one_of(st.integers(0, 3), st.integers(0x20010DB8 << 96, (0x20010DB8 << 96) + 3), st.integers(0, 2**128 - 1)),
    st.integers(97, 128) | st.integers(1, 128),
)
domains = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map(lambda parts: ".".join([*parts, "com"]))
targets = st.one_of(
    (v4 | v6)
    .filter(lambda network: not network.subnet_of(ipaddress.ip_network("::ffff:0:0/96")) if network.version == 6 else 1)
    .map(lambda network: Target.parse(Kind.ip, str(network))),
    st.text("12", min_size=6, max_size=8).map(lambda text: Target.parse(Kind.card_bin, text)),
    domains.map(lambda text: Target.parse(Kind.email_domain, text)),
    domains.map(lambda text: Target.parse(Kind.email, f"x@{text}")),
    st.tuples(st.sampled_from([Kind.user, Kind.device]), st.sampled_from(["1", "2", "a/1"])).map(
        lambda pair: Target.parse(*pair)
    ),
)
ends = st.sampled_from([None, NOW - 1, NOW, NOW + 1, NOW + 1000])
changes = st.lists(st.tuples(targets, st.none() | st.tuples(ends, st.sampled_from(["why", "because"]))), max_size=30)


def entry_of(target: Target, end: int | None, reason: str = "why") -> Entry:
    return Entry(target, reason, "tester", CREATED, None if end is None else from_unix_ms(end))


def lists(listed: Target, asked: Target) -> bool:
    """Whether an entry for `listed` covers `asked`, by the definition in docs/blacklist.md."""
    if listed.kind is Kind.ip and asked.kind is Kind.ip:
        outer, inner = ipaddress.ip_network(listed.value), ipaddress.ip_network(asked.value)
        return (
            outer.version == inner.version
            and int(inner.network_address) & int(outer.netmask) == int(outer.network_address)
            and inner.prefixlen >= outer.prefixlen
        )
    if listed.kind is Kind.card_bin and asked.kind is Kind.card_bin:
        return asked.value.startswith(listed.value)
    if listed.kind is Kind.email_domain and asked.kind in (Kind.email, Kind.email_domain):
        domain = asked.value.rpartition("@")[2]
        return domain == listed.value or domain.endswith(f".{listed.value}")
    return listed == asked


@settings(max_examples=500)
@given(changes, st.lists(targets, min_size=1, max_size=6, unique=True))
def test_it_answers_what_a_look_at_every_entry_would(
    made: list[tuple[Target, tuple[int | None, str] | None]], asked: list[Target]
) -> None:
    snapshot, model = Snapshot(), dict[Target, Entry]()
    for target, change in made:
        if change is None:
            snapshot.remove(target)
            model.pop(target, None)
        else:
            model[target] = entry_of(target, *change)
            snapshot.put(model[target])
    assert len(snapshot) == len(model)
    hits = snapshot.hits(asked, NOW)
    expected = {
        (target, entry)
        for target in asked
        for entry in model.values()
        if lists(entry.target, target) and entry.active(from_unix_ms(NOW))
    }
    assert {(hit.asked, hit.entry) for hit in hits} == expected
    places = [asked.index(hit.asked) for hit in hits]
    assert places == sorted(places)


@given(targets, st.integers(NOW - 5, NOW + 5))
def test_an_entry_is_over_at_its_end_to_the_millisecond(target: Target, now: int) -> None:
    snapshot = Snapshot()
    snapshot.put(entry_of(target, NOW))
    assert bool(snapshot.hits([target], now)) is (now < NOW)


@given(st.lists(targets, max_size=20))
def test_what_was_put_and_removed_leaves_nothing_behind(put: list[Target]) -> None:
    snapshot = Snapshot()
    for target in put:
        snapshot.put(entry_of(target, None))
    for target in put:
        snapshot.remove(target)
    assert len(snapshot) == 0
    assert snapshot.hits(put, NOW) == ()


def test_an_order_is_decided_in_microseconds_among_100_000_entries() -> None:
    draw = random.Random(7)  # noqa: S311
    snapshot = Snapshot()
    for number in range(90_000):
        kind = (Kind.ip, Kind.user, Kind.device, Kind.email)[number % 4]
        value = {
            Kind.ip: f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
            Kind.user: str(number),
            Kind.device: f"device-{number:08x}",
            Kind.email: f"customer{number}@mail.example.com",
        }[kind]
        snapshot.put(entry_of(Target(kind, value), NOW + number - 5000))
    while len(snapshot) < 100_000:
        network = ipaddress.ip_network((draw.getrandbits(32), draw.randint(9, 31)), strict=False)
        snapshot.put(entry_of(Target(Kind.ip, str(network)), None))
    order = Order(
        ip="192.0.2.9", card_bin="41111122", email="x@mail.shop.example.net", user="customer", device="device-x"
    ).targets()

    def seconds() -> float:
        start = time.perf_counter()
        for _ in range(2000):
            snapshot.hits(order, NOW)
        return (time.perf_counter() - start) / 2000

    assert min(seconds() for _ in range(5)) < 50e-6
