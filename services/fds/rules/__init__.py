"""The rules of the fraud detection: facts about an order in, a risk score with its reasons and a decision out.

Which rules there are is code (`ruleset`), how they are set and what they weigh is data (`default.toml`).
"""
