"""Damage to a file, in each of the ways in which a disk or a person does it."""

from pathlib import Path

WAYS = ("altered", "truncated", "deleted")


def damage(path: Path, how: str) -> None:
    """`how`: one of `WAYS`."""
    data = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
