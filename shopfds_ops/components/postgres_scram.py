"""SCRAM-SHA-256 verifiers: what PostgreSQL stores of a password, made here so that no statement carries a password.

Source: RFC 5802, RFC 7677, and PostgreSQL's documentation of pg_authid.rolpassword.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import stringprep
import unicodedata

ITERATIONS = 4096
"""PostgreSQL's own number."""
SALT_BYTES = 16


def verifier(password: str, role: str) -> str:
    """`SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`; the same for the same password and role.

    A random salt would change the rendered file each time. This one differs by role and password, and costs whoever
    guesses as much as the verifier itself does.
    """
    word = prepared(password)
    salt = hashlib.pbkdf2_hmac("sha256", word, b"shopfds " + role.encode(), ITERATIONS)[:SALT_BYTES]
    return salted(word, salt)


def salted(word: bytes, salt: bytes, iterations: int = ITERATIONS) -> str:
    """The verifier of a prepared password with a given salt."""
    key = hashlib.pbkdf2_hmac("sha256", word, salt, iterations)
    stored = hashlib.sha256(hmac.digest(key, b"Client Key", "sha256")).digest()
    server = hmac.digest(key, b"Server Key", "sha256")
    parts = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return "SCRAM-SHA-256${}:{}${}:{}".format(iterations, *parts)


def prepared(password: str) -> bytes:
    """The bytes that server and clients hash: prepared by SASLprep (RFC 4013), or as they are where that refuses."""
    if password.isascii():
        return password.encode()
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in password if not stringprep.in_table_b1(char)
    )
    return (unicodedata.normalize("NFKC", mapped) if _allowed(mapped) else password).encode()


def _allowed(text: str) -> bool:
    if not text or any(_prohibited(char) for char in text):
        return False
    if not any(stringprep.in_table_d1(char) for char in text):
        return True
    right_to_left_only = not any(stringprep.in_table_d2(char) for char in text)
    return right_to_left_only and stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])


def _prohibited(char: str) -> bool:
    tables = (
        stringprep.in_table_a1,
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
    )
    return any(table(char) for table in tables)
