"""Random streams: one seed per run, one named stream per purpose."""

import hashlib
import random
from typing import Any

import numpy as np
import torch


def stream_seed(seed: int, name: str) -> int:
    """A seed for the stream `name` of a run, independent of all other names."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # torch takes 63 bits


def generator(seed: int, name: str, device: torch.device | str) -> torch.Generator:
    """A torch generator for the stream `name`."""
    return torch.Generator(device).manual_seed(stream_seed(seed, name))


def seed_globals(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators; learning draws from torch's."""
    random.seed(stream_seed(seed, "python"))
    np.random.seed(stream_seed(seed, "numpy") % 2**32)  # noqa: NPY002 - third-party environments
    torch.manual_seed(stream_seed(seed, "torch"))


def global_states() -> dict[str, Any]:
    """The state of every global generator, of plain types and tensors."""
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002
    inner = legacy["state"]  # type: ignore[call-overload]
    return {
        "python": random.getstate(),
        "numpy": legacy | {"state": inner | {"key": torch.from_numpy(inner["key"].astype("i8"))}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_global_states(states: dict[str, Any]) -> list[str]:
    """Inverse of `global_states`; returns what could not be continued exactly."""
    random.setstate(states["python"])
    inner = states["numpy"]["state"]
    inner = inner | {"key": inner["key"].numpy().astype("u4")}
    np.random.set_state(states["numpy"] | {"state": inner})  # noqa: NPY002
    torch.set_rng_state(states["torch"].cpu())
    count = torch.cuda.device_count()
    if len(states["cuda"]) != count:
        return [f"the run moves from {len(states['cuda'])} to {count} GPUs: learning draws anew"]
    if count:
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    return []
