"""Procgen's emulator, libenv.so, bound with ctypes.

The library is found without importing its Python package, which would need gym, gym3 and numpy < 2.
Binary interface: version 1 of gym3's libenv.h, which every build of Procgen 0.10.7 has.
"""

import ctypes
import os
import weakref
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from worldmodels.envs.errors import UserError
from worldmodels.envs.procgen_config import install_command

RESET = -1
"""The action that ends the episode: a no-op, after which a new level is drawn."""

_ABI = 1
_OBSERVATION, _ACTION, _INFO = 1, 2, 3  # libenv_space
_DTYPES = {1: np.dtype(np.uint8), 2: np.dtype(np.int32), 3: np.dtype(np.float32)}  # libenv_dtype
_STATE_BYTES = 2**20  # of the buffer; a state has about 20 to 40 kB


class _Option(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char * 128),
        ("dtype", ctypes.c_int),
        ("count", ctypes.c_int),
        ("data", ctypes.c_void_p),
    )


class _Options(ctypes.Structure):
    _fields_ = (("items", ctypes.POINTER(_Option)), ("count", ctypes.c_int))


class _TensorType(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char * 128),
        ("scalar_type", ctypes.c_int),
        ("dtype", ctypes.c_int),
        ("shape", ctypes.c_int * 16),
        ("ndim", ctypes.c_int),
        ("low", ctypes.c_int),  # unions of uint8, int32 and float32
        ("high", ctypes.c_int),
    )


class _Buffers(ctypes.Structure):
    _fields_ = (
        ("observation", ctypes.POINTER(ctypes.c_void_p)),
        ("reward", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("info", ctypes.POINTER(ctypes.c_void_p)),
        ("action", ctypes.POINTER(ctypes.c_void_p)),
    )


class Emulator:
    """One game. It restarts by itself: the step that ends an episode shows the next one's frame."""

    def __init__(self, options: Mapping[str, bool | int | str]):
        self._library = library = _load()
        arrays = [_as_array(value) for value in {**options, **_fixed_options()}.values()]
        names = [*options, *_fixed_options()]
        items = (_Option * len(arrays))()
        for item, name, array in zip(items, names, arrays, strict=True):
            item.name = name.encode()
            item.dtype = next(code for code, dtype in _DTYPES.items() if dtype == array.dtype)
            item.count, item.data = array.size, array.ctypes.data
        self._handle = library.libenv_make(1, _Options(items, len(items)))
        self._close = weakref.finalize(self, library.libenv_close, self._handle)
        self._close.atexit = False  # the process frees it faster
        spaces = [self._arrays(space) for space in (_OBSERVATION, _INFO, _ACTION)]
        observation, info, action = spaces
        self.frame: np.ndarray = observation["rgb"]
        """uint8 [64, 64, 3]; the emulator draws into it."""
        self._level_seed, self._complete = info["level_seed"], info["prev_level_complete"]
        self._action = action["action"]
        self._reward, self._first = np.zeros(1, np.float32), np.zeros(1, np.uint8)
        pointers = [_pointers(space) for space in spaces]
        buffers = _Buffers(
            pointers[0], self._reward.ctypes.data, self._first.ctypes.data, *pointers[1:]
        )
        self._keep = (spaces, pointers, buffers)  # the emulator writes here as long as it lives
        library.libenv_set_buffers(self._handle, ctypes.byref(buffers))
        library.libenv_observe(self._handle)

    def _arrays(self, space: int) -> dict[str, np.ndarray]:
        """Zeros for every tensor of a space."""
        count = self._library.libenv_get_tensortypes(self._handle, space, None)
        types = (_TensorType * count)()
        self._library.libenv_get_tensortypes(self._handle, space, types)
        return {
            each.name.decode(): np.zeros(tuple(each.shape)[: each.ndim], _DTYPES[each.dtype])
            for each in types
        }

    @property
    def level_seed(self) -> int:
        """Seed of the level that `frame` shows."""
        return int(self._level_seed)

    def act(self, action: int) -> tuple[float, bool, bool]:
        """Reward, whether the episode ended, and whether its level was completed."""
        self._action[...] = action
        self._library.libenv_act(self._handle)
        self._library.libenv_observe(self._handle)
        return float(self._reward[0]), bool(self._first[0]), bool(self._complete)

    def get_state(self) -> bytes:
        """Everything that decides the future, options and random generators included.

        With generated assets it aborts the process: see `procgen_replay`.
        """
        buffer = ctypes.create_string_buffer(_STATE_BYTES)
        size = self._library.get_state(self._handle, 0, buffer, _STATE_BYTES)
        return ctypes.string_at(buffer, size)

    def accepts(self, state: bytes) -> bool:
        """Whether `state` has this build's format and is of this game."""
        own = self.get_state()
        start = 8 + int.from_bytes(own[4:8], "little")  # version, length of the name, name
        return state[:start] == own[:start]

    def set_state(self, state: bytes) -> None:
        """Continue from a state of the same game, and draw it; any other aborts the process."""
        self._library.set_state(self._handle, 0, state, len(state))

    def close(self) -> None:
        """Free the emulator; a second call does nothing."""
        self._close()


def _fixed_options() -> dict[str, bool | int | str]:
    return {
        "num_actions": 15,
        "debug_mode": 0,
        "num_threads": 0,  # steps in the calling thread
        "render_human": False,
        "resource_root": f"{_folder() / 'assets'}/",  # must end in a slash
    }


def _as_array(value: bool | int | str) -> np.ndarray:
    if isinstance(value, str):
        return np.frombuffer(value.encode(), np.uint8)
    return np.array([value], np.uint8 if isinstance(value, bool) else np.int32)


def _pointers(arrays: Mapping[str, np.ndarray]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays.values()))


@cache
def _folder() -> Path:
    """`data` of the installed package."""
    package = find_spec("procgen")  # finds the folder without importing it
    locations = package.submodule_search_locations if package else None
    folder = Path(next(iter(locations or []), ""), "data")
    if not (folder / "prebuilt" / "libenv.so").is_file() or not (folder / "assets").is_dir():
        raise UserError(
            f"the package procgen has no emulator in {folder}; run: {install_command()}"
        )
    return folder


@cache
def _load() -> ctypes.CDLL:
    path = _folder() / "prebuilt" / "libenv.so"
    # Its own Qt and zlib come first: other libraries of the process may hold other versions.
    mode = os.RTLD_NOW | os.RTLD_LOCAL | os.RTLD_DEEPBIND
    try:
        library = ctypes.CDLL(str(path), mode=mode)
    except OSError as error:
        raise UserError(f"loading {path} failed: {error}; run: {install_command()}") from error
    version = library.libenv_version()
    if version != _ABI:
        raise UserError(
            f"{path} has version {version} of its binary interface and worldmodels drives version "
            f"{_ABI}, that of procgen-mirror 0.10.7; run: {install_command()}"
        )
    handle = ctypes.c_void_p
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "libenv_make": (handle, [ctypes.c_int, _Options]),
        "libenv_get_tensortypes": (ctypes.c_int, [handle, ctypes.c_int, ctypes.c_void_p]),
        "libenv_set_buffers": (None, [handle, ctypes.POINTER(_Buffers)]),
        "libenv_observe": (None, [handle]),
        "libenv_act": (None, [handle]),
        "libenv_close": (None, [handle]),
        "get_state": (ctypes.c_int, [handle, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]),
        "set_state": (None, [handle, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
