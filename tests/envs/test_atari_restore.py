"""A saved Atari state continues exactly in a fresh process."""

import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from worldmodels.envs.atari import Atari
from worldmodels.envs.configs import AtariConfig
from worldmodels.envs.errors import UserError
from worldmodels.envs.rollout import RandomPlay

ROWS = 500

CONTINUE = """
import hashlib, pickle, sys
from worldmodels.envs.atari import Atari
from worldmodels.envs.rollout import RandomPlay
for config, state, running in pickle.load(open(sys.argv[1], "rb")):
    env = Atari(config, seed=99)  # another seed: whatever is not restored shows up
    env.set_state(state)
    digest = hashlib.sha256()
    for row in RandomPlay(env, seed=7, running=running).rows(int(sys.argv[2])):
        digest.update(pickle.dumps([row.obs["image"].tobytes(), row.reward.item(),
            row.is_first.item(), row.is_last.item(), row.is_terminal.item(), row.life_lost.item()]))
    print(digest.hexdigest())
"""


def at(config: AtariConfig, place: str) -> RandomPlay:
    """Random play that stands right after a reset, in mid-episode, or right after `is_last`."""
    play = RandomPlay(Atari(config, seed=0), seed=1)
    play.rows(1 if place == "after reset" else 90)
    while place == "after is_last" and play.running:
        play.row()
    return play


def digest(play: RandomPlay) -> str:
    """The digest of `CONTINUE`, over the rows of this process."""
    value = hashlib.sha256()
    for row in RandomPlay(play.env, seed=7, running=play.running).rows(ROWS):
        value.update(
            pickle.dumps(
                [
                    row.obs["image"].tobytes(),
                    row.reward.item(),
                    row.is_first.item(),
                    row.is_last.item(),
                    row.is_terminal.item(),
                    row.life_lost.item(),
                ]
            )
        )
    return value.hexdigest()


def test_states_continue_exactly_in_a_fresh_process(tmp_path):
    breakout = "atari:Breakout"
    cases = [
        (AtariConfig("atari:Pong"), "mid-episode"),
        (AtariConfig("atari:Pong", sticky=0.25), "mid-episode"),
        (AtariConfig("atari:Pong", max_frames=1000), "mid-episode"),
        (AtariConfig(breakout), "after is_last"),
        (AtariConfig(breakout, sticky=0.25), "after is_last"),
        (AtariConfig(breakout, sticky=0.25, life_loss="episode"), "after is_last"),
        (AtariConfig(breakout, sticky=0.25), "after reset"),
    ]
    saved, expected = [], []
    for config, place in cases:
        play = at(config, place)
        saved.append((config, play.env.get_state(), play.running))
        expected.append(digest(play))
    file = tmp_path / "states.pickle"
    file.write_bytes(pickle.dumps(saved))
    command = [sys.executable, "-c", CONTINUE, str(file), str(ROWS)]
    assert subprocess.check_output(command, text=True).split() == expected


def test_a_life_lost_right_after_a_restore_is_seen():
    env = Atari(AtariConfig("atari:Breakout"), 0)
    play = RandomPlay(env, seed=1)
    play.row()
    before, lost = env.get_state(), False
    while not lost:
        before = env.get_state()
        lost = play.row().life_lost.item()
    other = Atari(AtariConfig("atari:Breakout"), 5)
    other.set_state(before)
    assert other.step(np.array(0)).life_lost.item()


def test_a_state_of_another_game_is_refused():
    state = Atari(AtariConfig("atari:Pong"), 0).get_state()
    with pytest.raises(UserError, match="cannot restore atari:Breakout from a saved state of"):
        Atari(AtariConfig("atari:Breakout"), 0).set_state(state)
