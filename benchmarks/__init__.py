"""Ratios against the same work by hand, measured in one run: `make bench`."""
