"""ShopFDS operations: one command from an empty machine to a running, proven fraud-detection shop."""

__version__ = "0.1.0"
