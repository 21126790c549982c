"""An episode of transitions, checked and turned into rows (design law 1).

Letters: T actions, which make T + 1 rows; A action size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from worldmodels.envs.spaces import (
    action_encoder,
    read_action_space,
    read_observation_space,
)
from worldmodels.envs.spec import ObsSpec
from worldmodels.offline import checks
from worldmodels.offline.place import Place
from worldmodels.replay.recorded import Recorded


@dataclass(frozen=True)
class Transitions:
    """One episode as data sets store it, unchecked."""

    observations: Any
    """[T + 1, ...], or a dict of these."""
    actions: Any
    """[T, ...] in the data set's own action space."""
    rewards: Any
    """[T], each for the action beside it."""
    terminations: Any
    """bool [T]."""
    truncations: Any
    """bool [T]."""
    rows: Mapping[str, Any] = field(default_factory=dict)
    """`is_terminal`, `obs_valid` and `task` [T + 1], where our own data sets say more of a row."""


class Reader:
    """What the spaces of a data set say of its episodes.

    `layout` gives the specs of observations that are stored as rows keep them; without it they are
    read like those of a Gymnasium environment, images resized to `image_size` (0: as they are).
    """

    def __init__(
        self,
        observation: spaces.Space,
        action: spaces.Space,
        name: str,
        image_size: int = 0,
        layout: Mapping[str, ObsSpec] | None = None,
    ):
        if layout is None:
            self.obs, self._read = read_observation_space(observation, name, image_size)
        else:
            self.obs, self._read = dict(layout), _as_stored(layout)
        self.action, _ = read_action_space(action, name)
        self._observation, self._action = observation, action
        self._encode = action_encoder(action)
        self._binary = [key for key, spec in self.obs.items() if layout and spec.kind == "planes"]

    def rows(self, episode: Transitions, place: Place) -> Recorded:
        """The rows of one episode; UserError at the first thing that is not as it should be.

        An episode that ends neither terminated nor truncated counts as truncated.
        """
        actions = checks.is_array(place, "actions", episode.actions)
        count = len(actions)
        if not count:
            raise place.fault(0, "the episode is empty: it has no action")
        leaves = self._leaves(episode.observations, place)
        for name, (values, _) in leaves.items():
            checks.has_last_row(place, name, values, count)
        for name, (values, space) in leaves.items():
            checks.has_form(place, name, values, space, 0)
            checks.is_finite(place, name, values, 0)
            checks.is_within(place, name, values, space, 0)
        for key in self._binary:
            checks.is_binary(place, key, self._leaf(episode.observations, key))
        checks.has_form(place, "actions", actions, self._action, 1)
        checks.is_allowed_action(place, actions, self._action)
        rewards = checks.is_array(place, "rewards", episode.rewards)
        checks.is_reward(place, rewards, count)
        ends = [
            checks.is_array(place, name, getattr(episode, name))
            for name in ("terminations", "truncations")
        ]
        for name, values in zip(("terminations", "truncations"), ends, strict=True):
            checks.is_end(place, name, values, count)
        return self._recorded(episode, actions, rewards, bool(ends[0][-1]), place)

    def _recorded(
        self,
        episode: Transitions,
        actions: np.ndarray,
        rewards: np.ndarray,
        terminated: bool,
        place: Place,
    ) -> Recorded:
        rows = len(actions) + 1
        time = np.arange(rows)
        last = time == rows - 1
        markers = {
            "is_terminal": last & terminated,
            "obs_valid": np.ones(rows, np.bool_),
            "task": np.zeros(rows, np.int32),
            **self._more(episode.rows, rows, terminated, place),
        }
        return Recorded(
            obs=self._observed(episode.observations, rows),
            prev_action=_behind(self._encode(actions), -1 if self.action.kind == "discrete" else 0),
            reward=_behind(rewards.astype(np.float32), 0),
            is_first=time == 0,
            is_last=last,
            is_terminal=markers["is_terminal"],
            obs_valid=markers["obs_valid"],
            task=markers["task"].astype(np.int32),
        )

    def _leaves(
        self, observations: Any, place: Place
    ) -> dict[str, tuple[np.ndarray, spaces.Space]]:
        """Name, array and space of every part of the observations."""
        if not isinstance(self._observation, spaces.Dict):
            values = checks.is_array(place, "observations", observations)
            return {"observations": (values, self._observation)}
        wanted, found = self._observation.spaces, observations
        keys = found.keys() if isinstance(found, Mapping) else ()
        if keys != wanted.keys():
            held = ", ".join(keys) or type(found).__name__
            raise place.fault(
                0, f"observations holds {held}, where the data set has {', '.join(wanted)}"
            )
        names = {key: f"observations[{key!r}]" for key in wanted}
        return {
            name: (checks.is_array(place, name, found[key]), wanted[key])
            for key, name in names.items()
        }

    def _leaf(self, observations: Any, key: str) -> np.ndarray:
        return observations[key] if isinstance(self._observation, spaces.Dict) else observations

    def _observed(self, observations: Any, rows: int) -> dict[str, np.ndarray]:
        """[T + 1, ...] per key of the spec."""
        if isinstance(observations, Mapping):
            each = ({key: values[t] for key, values in observations.items()} for t in range(rows))
        else:
            each = (observations[t] for t in range(rows))
        read = [self._read(one) for one in each]
        return {key: np.stack([one[key] for one in read]) for key in self.obs}

    def _more(
        self, told: Mapping[str, Any], rows: int, terminated: bool, place: Place
    ) -> dict[str, np.ndarray]:
        """What our own data sets say of every row, checked."""
        more = {name: checks.is_array(place, name, values) for name, values in told.items()}
        for name, values in more.items():
            checks.has_last_row(place, name, values, rows - 1)
            checks.is_marker(place, name, values)
        terminal = more.get("is_terminal")
        if terminal is not None and bool(terminal[-1]) != terminated:
            raise place.fault(rows - 1, "is_terminal and terminations differ at the last row")
        return more


def _as_stored(layout: Mapping[str, ObsSpec]) -> Callable[[Any], dict[str, np.ndarray]]:
    """The reader of observations that are rows already; planes travel as bytes."""

    def read(obs: Any) -> dict[str, np.ndarray]:
        given: Mapping[str, Any] = obs if isinstance(obs, Mapping) else {next(iter(layout)): obs}
        return {key: given[key].astype(spec.dtype) for key, spec in layout.items()}

    return read


def _behind(values: np.ndarray, none: float) -> np.ndarray:
    """[T, ...] of actions -> [T + 1, ...] of the rows where they led; `none` in the first."""
    return np.concatenate([np.full((1, *values.shape[1:]), none, values.dtype), values])
