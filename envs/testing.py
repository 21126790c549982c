"""`check_env`: plays an environment of your own and names the law that it breaks."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from worldmodels.envs.rollout import RandomPlay, first_difference
from worldmodels.envs.spec import Env, EnvSpec, Step

_FLAGS = ("is_first", "is_last", "is_terminal", "life_lost", "obs_valid", "is_real_step")
_NUMBERS = {"reward": np.float32, "task": np.int32}
_PLAIN = (bytes, str, int, float, bool, type(None), np.ndarray)


class EnvLawError(AssertionError):
    """An environment breaks a law; `law` is its short name."""

    def __init__(self, law: str, what: str):
        super().__init__(f"law '{law}': {what}")
        self.law = law


def check_env(make_or_env: Callable[[int], Env] | Env, steps: int = 500) -> list[str]:
    """Play `steps` random rows and raise `EnvLawError` at the first law broken.

    Give a function from a seed to a new environment to have every law checked; one environment
    alone cannot show the laws about seeds. Returns the laws that were checked.
    """
    make = make_or_env if callable(make_or_env) else None
    env = make_or_env(0) if callable(make_or_env) else make_or_env
    checked = [_check_spec(env.spec), *_check_rows(env, steps)]
    if make is not None:
        checked += _check_seeds(make, steps)
    checked += _check_state(make, env, steps)
    if make is not None:
        env.close()
    return checked


def _require(holds: bool, law: str, what: str) -> None:
    if not holds:
        raise EnvLawError(law, what)


def _check_spec(spec: EnvSpec) -> str:
    law = "spec"
    _require(bool(spec.obs), law, "spec.obs is empty; name at least one observation")
    for key, obs in spec.obs.items():
        axes = 1 if obs.kind == "vector" else 3
        _require(
            len(obs.shape) == axes and min(obs.shape) > 0,
            law,
            f"observation '{key}' of kind {obs.kind} has shape {obs.shape}; it needs {axes} "
            "axes, none of them empty",
        )
    _require(spec.action.size > 0, law, f"the action size is {spec.action.size}")
    return law


def _check_rows(env: Env, steps: int) -> list[str]:
    """Every law that one stream of rows shows."""
    play = RandomPlay(env, seed=0)
    earlier: Step | None = None
    kept: Step | None = None
    for index in range(steps):
        is_reset = not play.running
        row = play.row()
        where = f"row {index} ({'reset' if is_reset else 'step'})"
        _check_types(row, env.spec, where)
        _check_flags(row, is_reset, where)
        if earlier is not None and kept is not None:
            changed = first_difference([earlier], [kept])
            _require(changed is None, "obs owned", f"{where} changed the row before it: {changed}")
        earlier, kept = row, pickle.loads(pickle.dumps(row))
    return ["one row per call", "types", "first row", "last and terminal", "obs owned"]


def _check_types(row: Step, spec: EnvSpec, where: str) -> None:
    for name in ("reward", *_FLAGS, "task"):
        value = getattr(row, name)
        dtype = _NUMBERS.get(name, np.bool_)
        _require(
            isinstance(value, np.ndarray) and value.dtype == dtype,
            "types",
            f"{where}: {name} is {_kind(value)}; it must be a numpy array of {dtype.__name__}",
        )
        _require(
            value.shape == (1,),
            "one row per call",
            f"{where}: {name} has shape {value.shape}; a reset or a step gives one row, (1,)",
        )
    _require(bool(np.isfinite(row.reward).all()), "types", f"{where}: the reward is not finite")
    _require(
        row.obs.keys() == spec.obs.keys(),
        "spec",
        f"{where}: the observation has keys {sorted(row.obs)}, the spec {sorted(spec.obs)}",
    )
    for key, expected in spec.obs.items():
        value = row.obs[key]
        _require(
            isinstance(value, np.ndarray)
            and value.dtype == expected.dtype
            and value.shape == (1, *expected.shape),
            "spec",
            f"{where}: observation '{key}' is {_kind(value)}, the spec says "
            f"{expected.dtype} {(1, *expected.shape)}",
        )


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__


def _check_flags(row: Step, is_reset: bool, where: str) -> None:
    first, last = row.is_first.item(), row.is_last.item()
    if is_reset:
        _require(first, "first row", f"{where}: a reset must give a row with is_first")
        _require(row.reward.item() == 0, "first row", f"{where}: its reward must be 0")
        _require(not row.is_real_step.item(), "first row", f"{where}: no action was executed")
        _require(not last, "first row", f"{where}: an episode has at least one action")
    else:
        _require(
            not first,
            "one row per call",
            f"{where}: k actions make k + 1 rows, but this step gave a first row; the "
            "environment must not reset itself",
        )
        _require(row.is_real_step.item(), "one row per call", f"{where}: is_real_step is False")
    _require(
        not row.is_terminal.item() or last or row.life_lost.item(),
        "last and terminal",
        f"{where}: is_terminal without is_last is for a lost life only (life_lost)",
    )


def _check_seeds(make: Callable[[int], Env], steps: int) -> list[str]:
    """Same seed, same stream; and a caller who writes into a row changes nothing."""
    stream = _stream(make(1), steps)
    difference = first_difference(stream, _stream(make(1), steps))
    _require(
        difference is None,
        "same seed, same stream",
        f"two environments made with seed 1 differ at {difference}",
    )
    difference = first_difference(stream, _stream(make(1), steps, overwrite=True))
    _require(
        difference is None,
        "obs owned",
        f"overwriting the rows that it gave changed the stream at {difference}; give copies",
    )
    return ["same seed, same stream"]


def _stream(env: Env, steps: int, overwrite: bool = False) -> list[Step]:
    """Copies of the first rows of `env`; `overwrite` writes zeros into every row it gave."""
    play, copies = RandomPlay(env, seed=1), []
    for _ in range(steps):
        row = play.row()
        copies.append(pickle.loads(pickle.dumps(row)))
        for value in row.obs.values():
            if overwrite and value.flags.writeable:
                value[...] = 0
    env.close()
    return copies


def _check_state(make: Callable[[int], Env] | None, env: Env, steps: int) -> list[str]:
    """A saved state continues exactly: in mid-episode, right after `is_last`, and pickled."""
    checked = []
    for law, ended in (("state in mid-episode", False), ("state after is_last", True)):
        play = RandomPlay(env, seed=2)
        play.rows(steps // 10)
        for _ in range(steps):
            if play.running != ended:
                break
            play.row()
        if play.running == ended:
            continue  # no such row within `steps`
        state = env.get_state()
        if state is None:
            return checked
        _require(
            _is_plain(state),
            law,
            "get_state may hold bytes, str, numbers, arrays, and lists and dicts of these only",
        )
        pickled = pickle.dumps(state)
        truth = RandomPlay(env, seed=3, running=play.running).rows(steps)
        # A new one has another seed, so that whatever the state forgets shows up.
        others = {"itself": env} | ({"a new one": make(4)} if make else {})
        for name, other in others.items():
            other.set_state(pickle.loads(pickled))
            rows = RandomPlay(other, seed=3, running=play.running).rows(steps)
            difference = first_difference(truth, rows)
            _require(
                difference is None,
                law,
                f"restored into {name}, the stream differs at {difference}; get_state must hold "
                "everything that decides the future, random generators too",
            )
            if other is not env:
                other.close()
        checked.append(law)
    return checked


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(sub) for key, sub in value.items())
    if isinstance(value, list):
        return all(_is_plain(sub) for sub in value)
    return isinstance(value, _PLAIN) and not (
        isinstance(value, np.ndarray) and value.dtype.hasobject
    )
