"""The words and places that seeded rows are made of: countries, names, products, reviews, as pools made once."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from faker import Faker

COUNTRIES = (
    *("US", "GB", "DE", "FR", "KR", "JP", "CA", "AU", "NL", "ES"),
    *("IT", "SE", "PL", "BR", "MX", "IN", "SG", "ZA", "TR", "AE"),
)
COUNTRY_WEIGHTS = (30, 10, 10, 8, 8, 6, 5, 4, 3, 3, 3, 2, 2, 2, 1, 1, 1, 0.5, 0.3, 0.2)

EMAIL_DOMAINS = ("mail.example", "inbox.example", "post.example", "example.com", "example.net", "example.org")
DISPOSABLE_DOMAINS = ("tenminutes.example", "throwaway.example", "trashbox.example", "burner.example")
"""All names are reserved for documentation (RFC 2606): no mail to a seeded user can ever reach somebody."""

CATEGORIES = {
    "audio": ("Headphones", "Speaker", "Microphone", "Turntable", "Earbuds"),
    "books": ("Atlas", "Cookbook", "Novel", "Field Guide", "Notebook"),
    "computers": ("Laptop", "Keyboard", "Monitor", "Docking Station", "Webcam"),
    "fashion": ("Jacket", "Sneakers", "Scarf", "Watch", "Backpack"),
    "garden": ("Lantern", "Hose", "Planter", "Hammock", "Grill"),
    "kitchen": ("Kettle", "Blender", "Knife Set", "Pan", "Espresso Machine"),
    "phones": ("Phone", "Charger", "Phone Case", "Power Bank", "Tablet"),
    "sports": ("Bicycle", "Yoga Mat", "Tent", "Racket", "Dumbbells"),
    "toys": ("Puzzle", "Board Game", "Model Train", "Kite", "Building Set"),
}
MATERIALS = ("Aluminium", "Bamboo", "Carbon", "Ceramic", "Cotton", "Leather", "Oak", "Recycled", "Steel", "Wool")

TITLES = {
    1: ("Broke after a week", "Not as described", "Never again"),
    2: ("Disappointing", "Expected more", "Poor value"),
    3: ("Does the job", "Average", "Good, with flaws"),
    4: ("Very good", "Would buy again", "Solid quality"),
    5: ("Excellent", "Exactly what I wanted", "Best of its kind"),
}

POOL = 400
"""How many different names, phrases and sentences are made; rows combine them."""


def names(random: Random) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """First and last names. Like all pools the same for the same state of `random` and the same version of Faker."""
    fake = _faker(random)
    return _pool(fake.first_name), _pool(fake.last_name)


def goods(random: Random) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Colors and catch phrases."""
    fake = _faker(random)
    return _pool(fake.color_name), _pool(fake.catch_phrase)


def sentences(random: Random) -> tuple[str, ...]:
    """What reviews say."""
    fake = _faker(random)
    return _pool(lambda: fake.sentence(nb_words=10))


def _faker(random: Random) -> Faker:
    fake = Faker("en_US")
    fake.seed_instance(random.getrandbits(32))
    return fake


def _pool(make: Callable[[], str]) -> tuple[str, ...]:
    return tuple(plain(make()) for _ in range(POOL))


def plain(text: str) -> str:
    """`text` in ASCII, without what COPY's text format would have to escape."""
    return re.sub(r"[\t\r\n\\]", " ", text.encode("ascii", "ignore").decode())


def local_part(name: str) -> str:
    """A name as the local part of an e-mail address."""
    return re.sub(r"[^a-z]", "", name.lower()) or "user"
