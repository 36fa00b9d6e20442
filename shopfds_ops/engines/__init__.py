"""Engines run the nodes of a topology; `base` is the Protocol, and `choose` picks one."""
