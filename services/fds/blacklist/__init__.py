"""The blacklist: PostgreSQL is the record of it, Redis Cluster the fast copy that every order is checked against.

`manager.BlacklistManager` is the door; `entries` has what goes through it (Target, Entry, Order), `errors` what it
raises.
"""
