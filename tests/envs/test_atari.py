"""The Atari protocol, option by option, against ale-py and Pillow used by hand."""

import hashlib
from importlib.metadata import version

import numpy as np
import pytest
from ale_py import ALEInterface, roms
from PIL import Image

from worldmodels.envs.atari import Atari
from worldmodels.envs.configs import AtariConfig
from worldmodels.envs.rollout import RandomPlay, first_difference
from worldmodels.envs.testing import check_env

# Of 200 rows of Pong, by the versions of what draws it: ale-py and Pillow.
GOLDEN = {
    ("0.12.1", "13.0.0"): "6a09385b12950a2cb680f1f5306ed9a22f100397f5152fb428f2c5fed77049c0",
}


def pong(**options) -> AtariConfig:
    return AtariConfig("atari:Pong", **options)


def breakout(**options) -> AtariConfig:
    return AtariConfig("atari:Breakout", **options)


def images(rows) -> np.ndarray:
    return np.concatenate([row.obs["image"] for row in rows])


def by_hand(game: str, actions, resample, grayscale: bool) -> tuple[list[np.ndarray], list[int]]:
    """Observations and rewards of one game without no-ops: the protocol, written naively."""
    ale = ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(str(roms.get_rom_path(game)))
    ale.reset_game()

    def observe(pooled):
        image = Image.fromarray(pooled)
        image = image.convert("L") if grayscale else image
        return np.asarray(image.resize((64, 64), resample)).reshape(64, 64, -1)

    obs, rewards = [observe(ale.getScreenRGB())], []
    for action in actions:
        frames, reward = [], 0
        for _ in range(4):
            reward += ale.act(ale.getMinimalActionSet()[action])
            frames.append(ale.getScreenRGB())
            if ale.game_over():
                break
        # A game that ends early shows its true last frame alone.
        pooled = np.maximum(*frames[-2:]) if len(frames) == 4 else frames[-1]
        obs.append(observe(pooled))
        rewards.append(reward)
        if ale.game_over():
            break
    return obs, rewards


@pytest.mark.parametrize(
    ("resize", "resample", "grayscale"),
    [
        ("bilinear", Image.Resampling.BILINEAR, False),
        ("box", Image.Resampling.BOX, False),
        ("bilinear", Image.Resampling.BILINEAR, True),
    ],
)
def test_frames_and_rewards_equal_ale_by_hand_to_the_last_frame(resize, resample, grayscale):
    actions = np.random.default_rng(0).integers(4, size=2000)
    obs, rewards = by_hand("breakout", actions, resample, grayscale)
    assert 50 < len(rewards) < 2000, "the game must end for this test to see its last frame"
    env = Atari(breakout(noop_max=0, resize=resize, grayscale=grayscale), 0)
    rows = [env.reset(), *(env.step(action) for action in actions[: len(rewards)])]
    assert (images(rows) == np.array(obs)).all()
    assert [row.reward.item() for row in rows] == [0, *rewards]
    assert [row.is_last.item() for row in rows] == [False] * len(rewards) + [True]
    assert rows[-1].is_terminal.item()
    assert rows[-1].obs_valid.item()


def test_the_last_frame_is_true_wherever_the_skip_ends():
    """Over several games the end falls on different frames of the skip; each must match."""
    ends = set()
    for seed in range(6):
        actions = np.random.default_rng(seed).integers(4, size=2000)
        obs, rewards = by_hand("breakout", actions, Image.Resampling.BILINEAR, False)
        env = Atari(breakout(noop_max=0), 0)
        env.reset()
        row = [env.step(action) for action in actions[: len(rewards)]][-1]
        assert (row.obs["image"][0] == obs[-1]).all()
        ends.add(env._frame_count % 4)
    assert len(ends) > 1


def test_the_golden_stream():
    versions = (version("ale-py"), version("pillow"))
    if versions not in GOLDEN:
        pytest.skip(f"no golden hash for ale-py and Pillow {versions}")
    rows = RandomPlay(Atari(pong(), 0), seed=0).rows(200)
    digest = hashlib.sha256(images(rows).tobytes())
    digest.update(np.concatenate([row.reward for row in rows]).tobytes())
    assert digest.hexdigest() == GOLDEN[versions]


def test_keeps_every_law():
    make = lambda seed: Atari(AtariConfig("atari:Breakout", sticky=0.25), seed)  # noqa: E731
    assert "state after is_last" in check_env(make, steps=250)


def test_max_frames_truncates_without_ending_value():
    rows = RandomPlay(Atari(pong(max_frames=400), 0), seed=0).rows(102)
    assert [t for t, row in enumerate(rows) if row.is_last] == [100]
    assert not any(row.is_terminal for row in rows)
    assert rows[101].is_first.item()


def test_max_frames_within_a_skip_stops_there():
    env = Atari(pong(max_frames=6), 0)
    env.reset()
    assert [env.step(np.array(0)).is_last.item() for _ in range(2)] == [False, True]
    assert env._frame_count == 6


def life_rows(life_loss: str) -> list:
    env = Atari(breakout(life_loss=life_loss), 3)
    actions, rows = iter(np.random.default_rng(3).integers(4, size=3000)), [env.reset()]
    while not (rows[-1].is_last and rows[-1].is_terminal and env._ale.game_over()):
        rows.append(env.reset() if rows[-1].is_last else env.step(next(actions)))
    return rows


def test_life_loss_changes_flags_and_never_frames():
    off, flag, episode = (life_rows(mode) for mode in ("off", "flag", "episode"))
    played = [row for row in episode if row.is_real_step or row is episode[0]]
    assert (images(off) == images(flag)).all()
    assert (images(off) == images(played)).all()

    def places(rows, name):
        return [t for t, row in enumerate(rows) if getattr(row, name)]

    end = len(off) - 1
    lost = places(off, "life_lost")
    assert len(lost) == 5
    assert lost[-1] == end
    for rows in (flag, played):
        assert places(rows, "life_lost") == lost
    assert places(off, "is_last") == places(off, "is_terminal") == [end]
    assert places(flag, "is_last") == [end]
    assert places(flag, "is_terminal") == lost
    assert places(played, "is_last") == places(played, "is_terminal") == lost


def test_an_episode_of_one_life_continues_the_same_game():
    rows = life_rows("episode")
    resets = [t for t, row in enumerate(rows) if row.is_first and t > 0]
    assert len(resets) == 4
    for t in resets:
        assert (rows[t].obs["image"] == rows[t - 1].obs["image"]).all()
        assert rows[t].reward.item() == 0


def test_zero_lives_are_not_yet_game_over():
    class NoLives:
        """An emulator that shows zero lives while its game goes on."""

        def __init__(self, ale):
            self.ale = ale

        def lives(self):
            return 0

        def __getattr__(self, name):
            return getattr(self.ale, name)

    env = Atari(breakout(life_loss="episode"), 0)
    env.reset()
    env._ale = NoLives(env._ale)
    row = env.step(np.array(0))
    assert row.life_lost.item()
    assert not row.is_last.item()
    assert not row.is_terminal.item()


def test_a_new_game_shows_nothing_of_the_last_one():
    env = Atari(pong(noop_max=0), 0)
    first = env.reset()
    for _ in range(50):
        env.step(np.array(2))
    assert first_difference([first], [env.reset()]) is None


def test_no_ops_are_uniform_from_0_to_noop_max():
    env = Atari(pong(noop_max=5), 0)
    counts = np.zeros(6, int)
    for _ in range(120):
        env.reset()
        counts[env._ale.getEpisodeFrameNumber()] += 1
    assert counts.min() >= 8
    assert Atari(pong(), 0)._config.noop_max == 30


def test_minimal_and_full_action_sets():
    assert Atari(pong(), 0).spec.action.size == 6
    assert Atari(pong(full_action_space=True), 0).spec.action.size == 18


def test_rewards_are_clipped_only_on_request():
    def rewards(clip):
        env = Atari(AtariConfig("atari:MsPacman", reward_clip=clip), 0)
        return [row.reward.item() for row in RandomPlay(env, seed=0).rows(150)]

    assert max(rewards(False)) >= 10
    assert [min(reward, 1) for reward in rewards(False)] == rewards(True)


def test_sticky_actions_repeat_at_their_rate():
    env = Atari(pong(sticky=0.25), 0)
    repeated = sum(env._sticky(asked) != asked for asked in range(1, 8001))
    assert repeated / 8000 == pytest.approx(0.25, abs=0.02)
    # Always sticky: the first action never runs, and neither does any other.
    streams = []
    for action in (0, 2):
        env = Atari(pong(sticky=1.0), 0)
        streams.append([env.reset(), *(env.step(np.array(action)) for _ in range(40))])
    assert first_difference(*streams) is None


def test_fire_on_reset_launches_the_ball():
    def lives_after_waiting(fire):
        env = Atari(breakout(fire_on_reset=fire, noop_max=0), 0)
        env.reset()
        return any(env.step(np.array(0)).life_lost.item() for _ in range(60))

    assert lives_after_waiting(True)
    assert not lives_after_waiting(False)


def test_frame_skip_and_image_size_reach_the_spec():
    env = Atari(pong(frame_skip=1, image_size=96, grayscale=True), 0)
    assert env.spec.frame_skip == 1
    assert env.spec.obs["image"].shape == (96, 96, 1)
    assert env.spec.random_score == -20.7
    rows = RandomPlay(env, seed=0).rows(3)
    assert env._frame_count == 2
    assert images(rows).shape == (3, 96, 96, 1)


def test_the_maximum_keeps_sprites_that_flicker():
    """Ms. Pac-Man draws its ghosts on some frames only: pooled images are never darker."""

    def play(max_pool):
        env = Atari(AtariConfig("atari:MsPacman", max_pool=max_pool), 0)
        return images(RandomPlay(env, seed=0).rows(100)).astype(int)

    pooled, single = play(2), play(1)
    assert (pooled >= single).all()
    assert (pooled > single).any()


def test_different_seeds_differ():
    a, b = (RandomPlay(Atari(pong(), seed), seed=0).rows(30) for seed in (0, 1))
    assert first_difference(a, b) is not None
