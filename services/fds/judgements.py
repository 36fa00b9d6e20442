"""The words in which a transaction is judged; no imports, so that whoever needs the words pays for no more."""

LABELS = ("normal", "suspicious", "fraud")
PATTERNS = ("velocity", "amount", "geography", "disposable_email", "shared_device", "shared_card_bin")
"""What made a transaction suspicious or fraud. The seed's shares of episodes are in this order."""
