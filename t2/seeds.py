"""Where seeds come from: each purpose has one of its own, made of a number and words."""

from __future__ import annotations

import hashlib


def derive(seed: int, purpose: str) -> int:
    """A seed for one purpose, in [0, 2⁵⁶); equal inputs give equal seeds on every machine."""
    return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:7], "big")
