"""Derives random seeds from their purpose alone, not from the worker, the rank or the time."""

from hashlib import blake2b


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that is a fixed function of `parts`, e.g. `derive_seed(seed, epoch, photo)`."""
    # The type stands beside the value, so that (1, "2") and ("1", 2) differ; the length, so that ("a", "b") and ("ab",) do.
    message = b"".join(f"{type(part).__name__}:{len(str(part))}:{part};".encode() for part in parts)
    return int.from_bytes(blake2b(message, digest_size=8).digest(), "big") >> 1
