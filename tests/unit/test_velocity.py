"""What an order is counted at: the customer's network, not one of its countless addresses."""

from __future__ import annotations

import pytest

from services.fds.rules.facts import Subject
from services.fds.velocity import subjects_of


@pytest.mark.parametrize(
    ("ip", "place"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:DB8:0:7::1", "2001:db8:0:7::/64"),
        ("2001:db8:0:7:ffff::", "2001:db8:0:7::/64"),
    ],
)
def test_addresses_of_one_customer_are_one_place(ip: str, place: str) -> None:
    found = subjects_of(user="1", ip=ip, device="d", card_bin="411111", card_last4="0042")
    assert found[Subject.ip] == place
    assert found[Subject.card] == "411111-0042"
    assert set(found) == set(Subject)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        subjects_of(user="1", ip="nonsense", device="d", card_bin="411111", card_last4="0042")
