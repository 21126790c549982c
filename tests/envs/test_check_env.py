"""`check_env` names the law: one environment planted per law, each breaking only that one."""

import numpy as np
import pytest

from worldmodels.envs.catch import Catch
from worldmodels.envs.configs import CatchConfig
from worldmodels.envs.spec import ActionSpec, EnvSpec, ObsSpec, Step
from worldmodels.envs.testing import EnvLawError, check_env


class Planted(Catch):
    """Catch; `edit_reset` and `edit_step` change a row before it is given."""

    def __init__(self, seed: int):
        super().__init__(CatchConfig(), seed)

    def reset(self):
        return self.edit_reset(super().reset())

    def step(self, action):
        return self.edit_step(super().step(action))

    def edit_reset(self, row: Step) -> Step:
        return row

    def edit_step(self, row: Step) -> Step:
        return row


class ResetWithoutFirst(Planted):
    def edit_reset(self, row):
        row.is_first[:] = False
        return row


class ResetWithReward(Planted):
    def edit_reset(self, row):
        row.reward[:] = 1
        return row


class ResetAsRealStep(Planted):
    def edit_reset(self, row):
        row.is_real_step[:] = True
        return row


class EmptyEpisode(Planted):
    def edit_reset(self, row):
        row.is_last[:] = True
        return row


class ResetsItself(Planted):
    """The new episode's first frame arrives in place of the last row, as in SAME_STEP mode."""

    def edit_step(self, row):
        return Catch.reset(self) if row.is_last else row


class StepIsNotReal(Planted):
    def edit_step(self, row):
        row.is_real_step[:] = False
        return row


class TwoRows(Planted):
    def edit_step(self, row):
        return Step.stack([row, row])


class TerminalWithoutLast(Planted):
    def edit_step(self, row):
        row.is_terminal[:] = True
        return row


class Float64Reward(Planted):
    def edit_step(self, row):
        row.reward = row.reward.astype(np.float64)
        return row


class NanReward(Planted):
    def edit_step(self, row):
        row.reward[:] = np.nan
        return row


class PlainBoolFlag(Planted):
    def edit_step(self, row):
        row.is_last = bool(row.is_last[0])  # pyright: ignore[reportAttributeAccessIssue]
        return row


class OtherDtype(Planted):
    def edit_step(self, row):
        row.obs["planes"] = row.obs["planes"].astype(np.uint8)
        return row


class OtherShape(Planted):
    def edit_reset(self, row):
        row.obs["planes"] = row.obs["planes"][..., 0]
        return row


class OtherKey(Planted):
    def edit_reset(self, row):
        row.obs["board"] = row.obs.pop("planes")
        return row


class EmptySpec(Planted):
    def __init__(self, seed):
        super().__init__(seed)
        self.spec = EnvSpec("empty", {}, ActionSpec("discrete", 3))


class ImageOfTwoAxes(Planted):
    def __init__(self, seed):
        super().__init__(seed)
        obs = {"planes": ObsSpec((10, 5), "image")}
        self.spec = EnvSpec("flat", obs, ActionSpec("discrete", 3))


class ReusesItsBuffer(Planted):
    buffer = np.zeros((1, 10, 5, 1), np.bool_)

    def edit_step(self, row):
        self.buffer[:] = row.obs["planes"]
        row.obs["planes"] = self.buffer
        return row


class GivesItsOwnBoard(Planted):
    """Its board is its memory: who writes into the row changes the game."""

    board = None

    def edit_reset(self, row):
        self.board = row.obs["planes"]
        return row

    def edit_step(self, row):
        assert self.board is not None
        seen = self.board.any()
        self.board = row.obs["planes"]
        row.reward[:] += float(seen)
        return row


class UnseededStream(Planted):
    def __init__(self, seed):
        super().__init__(seed)
        self._random = np.random.default_rng()


class ForgetsItsPaddle(Planted):
    def set_state(self, state):
        super().set_state({**state, "paddle": 0})


class ForgetsItsGenerator(Planted):
    def set_state(self, state):
        super().set_state({**state, "random": self._random.bit_generator.state})


class ForgetsOnlyAfterTheEnd(Planted):
    """Exact in mid-episode; a state saved right after `is_last` loses the generator."""

    def set_state(self, state):
        if state["ball"][0] == 9:
            state = {**state, "random": np.random.default_rng(0).bit_generator.state}
        super().set_state(state)


class StateOfObjects(Planted):
    def get_state(self):
        return {**super().get_state(), "object": self.spec}


@pytest.mark.parametrize(
    ("planted", "law"),
    [
        (ResetWithoutFirst, "first row"),
        (ResetWithReward, "first row"),
        (ResetAsRealStep, "first row"),
        (EmptyEpisode, "first row"),
        (ResetsItself, "one row per call"),
        (StepIsNotReal, "one row per call"),
        (TwoRows, "one row per call"),
        (TerminalWithoutLast, "last and terminal"),
        (Float64Reward, "types"),
        (NanReward, "types"),
        (PlainBoolFlag, "types"),
        (OtherDtype, "spec"),
        (OtherShape, "spec"),
        (OtherKey, "spec"),
        (EmptySpec, "spec"),
        (ImageOfTwoAxes, "spec"),
        (ReusesItsBuffer, "obs owned"),
        (GivesItsOwnBoard, "obs owned"),
        (UnseededStream, "same seed, same stream"),
        (ForgetsItsPaddle, "state in mid-episode"),
        (ForgetsItsGenerator, "state in mid-episode"),
        (ForgetsOnlyAfterTheEnd, "state after is_last"),
        (StateOfObjects, "state in mid-episode"),
    ],
)
def test_the_broken_law_is_named(planted, law):
    with pytest.raises(EnvLawError) as info:
        check_env(planted, steps=120)
    assert info.value.law == law
    assert str(info.value).startswith(f"law '{law}': ")


def test_a_lost_life_may_end_value_alone():
    class LosesLives(Planted):
        def edit_step(self, row):
            row.life_lost[:] = row.is_terminal[:] = True
            return row

    check_env(LosesLives, steps=100)


def test_one_environment_shows_all_but_the_laws_about_seeds():
    every = check_env(Planted, steps=100)
    alone = check_env(Planted(0), steps=100)
    assert set(every) - set(alone) == {"same seed, same stream"}
    with pytest.raises(EnvLawError, match="state in mid-episode"):
        check_env(ForgetsItsPaddle(0), steps=100)


def test_what_could_not_be_checked_is_not_claimed():
    class Unsavable(Planted):
        def get_state(self):  # pyright: ignore[reportIncompatibleMethodOverride]
            return None

    class NeverEnds(Planted):
        def edit_step(self, row):
            self._ball_row = 0
            return row

    assert not any(law.startswith("state") for law in check_env(Unsavable, steps=100))
    assert "state after is_last" not in check_env(NeverEnds, steps=100)
