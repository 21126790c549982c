"""Task streams: who gets how many steps, what a switch looks like, and that all of it restores."""

from dataclasses import fields, replace
from importlib.util import find_spec
from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodels.envs.catch import Catch
from worldmodels.envs.continual import Continual
from worldmodels.envs.continual_config import ContinualConfig
from worldmodels.envs.continual_tasks import STREAMS
from worldmodels.envs.errors import UserError
from worldmodels.envs.registry import config_for, evaluations, make
from worldmodels.envs.rollout import RandomPlay, first_difference
from worldmodels.envs.testing import check_env
from worldmodels.envs.vector import VecEnv, make_vec
from worldmodels.objects import Batch

MIXED = ("catch", "memory:tmaze-3", "memory:repeat-1", "{name: catch, label: other}")
"""Episodes of 9, 4, 33 and 9 steps; 3, 2, 4 and 3 actions."""
FRAME_SKIPS = {"catch": 1, "minatar": 1, "atari": 4, "coinrun": 1}
"""Of the built-in streams."""


def needs_procgen() -> None:
    """The library that is driven; its Python package need not be importable."""
    if find_spec("procgen") is None:
        pytest.skip("procgen is not installed")


def mixed(steps_per_task: int, **options) -> ContinualConfig:
    return ContinualConfig(tasks=MIXED, steps_per_task=steps_per_task, **options)


def play(vec: VecEnv, steps: int) -> list:
    """Rows of random play until `steps` actions were executed, over all environments."""
    random, rows, executed = np.random.default_rng(0), [], 0
    while executed < steps:
        rows.append(vec.step(random.integers(vec.spec.action.size, size=vec.num_envs)))
        executed += int(rows[-1].is_real_step.sum())
    return rows


def counts(rows: list, tasks: int) -> list[int]:
    """Executed actions per task."""
    real = np.concatenate([row.task[row.is_real_step] for row in rows])
    return np.bincount(real, minlength=tasks).tolist()


@pytest.mark.parametrize("stream", STREAMS)
def test_every_stream_gives_each_task_its_budget(stream):
    """The published code stepped its schedule twice an epoch, which halved every task."""
    if stream == "coinrun":
        needs_procgen()
    config = replace(config_for(f"continual:{stream}"), steps_per_task=83)
    vec = make_vec(config, 4, seed=0)
    tasks = len(config.parts)
    rows = play(vec, config.total_steps)
    given = counts(rows, tasks)
    # Environments that reset less often are ahead at the very end: by a few rows at most.
    assert given[:-1] == [83] * (tasks - 1)
    assert 83 <= given[-1] < 83 + 4
    assert vec.spec.frame_skip == FRAME_SKIPS[stream]
    vec.close()


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("lanes", [1, 3, 4, 7, 16])
def test_environments_share_a_tasks_steps_exactly(stream, lanes):
    config = config_for(f"continual:{stream}")
    shares = [config.for_lane(lane, lanes).steps_per_task for lane in range(lanes)]
    assert sum(shares) == config.steps_per_task
    assert max(shares) - min(shares) <= 1


@settings(max_examples=40, deadline=None)
@given(
    lanes=st.integers(1, 4),
    steps=st.integers(4, 40),
    cycles=st.integers(1, 3),
    order=st.sampled_from(["given", "reversed", "shuffled"]),
    order_seed=st.integers(0, 5),
)
def test_any_schedule(lanes, steps, cycles, order, order_seed):
    config = mixed(steps, cycles=cycles, order=order, order_seed=order_seed)
    vec = make_vec(config, lanes, seed=1)
    rows = play(vec, config.total_steps + 40)
    for lane in range(lanes):
        tasks = [int(row.task[lane]) for row in rows]
        real = [bool(row.is_real_step[lane]) for row in rows]
        groups = groupby(zip(tasks, real, strict=True), lambda row: row[0])
        visits = [[is_real for _, is_real in group] for _, group in groups]
        assert [task for task, _ in groupby(tasks)] == list(config.visits)
        share = steps // lanes + (lane < steps % lanes)
        assert [sum(visit) for visit in visits[:-1]] == [share] * (len(visits) - 1)
        assert all(visit[0] is False for visit in visits), "a task starts with a reset"
        for before, after in pairwise(rows):
            if before.task[lane] != after.task[lane]:
                assert before.is_last[lane], "an episode crosses a switch"
            assert after.is_first[lane] == before.is_last[lane]
    done = counts(rows, len(MIXED))
    assert sum(done) >= config.total_steps
    last = config.visits[-1]
    assert [n for task, n in enumerate(done) if task != last] == [steps * cycles] * 3


def test_orders():
    assert mixed(9).visits == (0, 1, 2, 3)
    assert mixed(9, order="reversed", cycles=2).visits == (3, 2, 1, 0) * 2
    drawn = {mixed(9, order="shuffled", order_seed=seed).visits for seed in range(30)}
    assert len(drawn) > 10
    assert all(sorted(visits) == [0, 1, 2, 3] for visits in drawn)
    assert (
        mixed(9, order="shuffled", order_seed=3).visits
        == mixed(7, order="shuffled", order_seed=3).visits
    ), "a seed is an order"
    assert mixed(9, order="reversed").task_at(0) == "other"
    assert [mixed(9).task_at(step) for step in (8, 9, 10**9)] == [
        "catch",
        "memory:tmaze-3",
        "other",
    ]


def test_the_row_of_a_switch_ends_the_episode_and_not_its_value():
    env = Continual(mixed(5), 0)
    rows = RandomPlay(env, 0).rows(12)
    assert [row.is_last.item() for row in rows[:7]] == [False] * 5 + [True, False]
    assert not rows[5].is_terminal.item(), "cut in mid-episode"
    assert rows[6].is_first.item()
    assert [row.task.item() for row in rows[4:8]] == [0, 0, 1, 1]
    ends = RandomPlay(Continual(mixed(9), 0), 0).rows(11)
    assert ends[9].is_last.item()
    assert ends[9].is_terminal.item(), "that episode was over anyway"
    assert [row.task.item() for row in ends[8:]] == [0, 0, 1]


def test_one_task_alone_lasts_and_keeps_the_spaces():
    config = mixed(5, task="memory:tmaze-3", cycles=2)
    assert config.total_steps == 10
    vec = make_vec(config, 2, seed=0)
    rows = play(vec, 200)
    assert {int(task) for row in rows for task in row.task} == {1}
    assert [row.is_last[0] for row in rows[:10]] == ([False] * 4 + [True]) * 2
    whole = Continual(mixed(5), 0).spec
    assert (vec.spec.obs, vec.spec.action) == (whole.obs, whole.action)
    assert (vec.spec.random_score, vec.spec.reference_score) == (0.0, 1.0)
    assert whole.random_score is None


@pytest.mark.parametrize("index", range(4))
def test_the_rows_of_a_task_are_those_of_its_environment(index):
    """Nothing else gets into them: no label, no index, no step of the schedule."""
    config = mixed(50, task=mixed(50).task_names[index])
    rows = RandomPlay(Continual(config, 3), 0).rows(40)
    task = config.parts[index]
    alone = make(task.config, int(np.random.SeedSequence([3, 0, 0]).generate_state(1)[0]))
    random, running = np.random.default_rng(0), False
    for row in rows:
        drawn = random.integers(4)
        action = np.asarray(drawn if drawn < alone.spec.action.size else 0)
        expected = alone.step(action) if running else alone.reset()
        assert row.task.item() == index
        assert first_difference([replace(row, task=expected.task)], [expected]) is None
        running = not expected.is_last.item()
    assert "task" not in {field.name for field in fields(Batch)}


def test_labels_change_nothing():
    named = replace(mixed(20), tasks=tuple(f"{{name: catch, label: {x}}}" for x in "abcd"))
    other = replace(mixed(20), tasks=tuple(f"{{name: catch, label: {x}}}" for x in "wxyz"))
    streams = [RandomPlay(Continual(config, 0), 0).rows(100) for config in (named, other)]
    assert first_difference(*streams) is None


def test_an_action_that_a_task_lacks_is_its_action_0():
    """The T-maze has two actions; the agent has four."""
    config = mixed(50, task="memory:tmaze-3")
    streams = []
    for chosen in (0, 2, 3):
        env = Continual(config, 5)
        assert env.spec.action.size == 4
        streams.append([env.reset(), *(env.step(np.asarray(chosen)) for _ in range(4))])
    assert first_difference(streams[0], streams[1]) is None
    assert first_difference(streams[0], streams[2]) is None
    env = Continual(config, 5)
    right = [env.reset(), *(env.step(np.asarray(1)) for _ in range(4))]
    assert right[-1].reward != streams[0][-1].reward


def test_planes_are_padded_with_empty_ones():
    tasks = ("minatar:breakout", "minatar:seaquest")
    config = ContinualConfig(tasks=tasks, steps_per_task=30)
    vec = make_vec(config, 1, seed=0)
    assert vec.spec.obs["planes"].shape == (10, 10, 10)
    assert vec.spec.action.size == 6
    by_task = {0: [], 1: []}
    for row in play(vec, 60):
        by_task[int(row.task[0])].append(row.obs["planes"])
    assert not np.concatenate(by_task[0])[..., 4:].any()
    assert np.concatenate(by_task[0])[..., :4].any()
    assert np.concatenate(by_task[1])[..., 4:].any()


def test_atari_games_share_all_18_actions():
    config = config_for("continual:atari")
    assert all(task.config.full_action_space for task in config.parts)
    assert not any(task.config.sticky for task in config.parts)
    assert config.task_names[:2] == ("MsPacman", "Boxing")


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (("catch", "atari:Pong"), r"task 'atari:Pong' .* other observations: image and planes"),
        (("catch", "minatar:breakout"), r"task 'minatar:breakout' .* cannot share .* 'planes'"),
        (
            ("gym:Pendulum-v1", "gym:MountainCarContinuous-v0"),
            r"task 'gym:MountainCarContinuous-v0' .* 'vector'",
        ),
        (("atari:Pong", "{name: atari:Boxing, image_size: 96}"), "'atari:Boxing' .* cannot share"),
    ],
)
def test_spaces_that_do_not_go_together_name_the_task(tasks, message):
    with pytest.raises(UserError, match=message):
        Continual(ContinualConfig(tasks=tasks, steps_per_task=9), 0)


def test_fewer_steps_than_environments_are_refused():
    with pytest.raises(UserError, match="steps_per_task is 3, less than the 4 environments"):
        make_vec(mixed(3), 4, seed=0)


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        (mixed(21, cycles=2), 200),
        (ContinualConfig(tasks=("atari:Pong", "atari:Boxing"), steps_per_task=40), 80),
        (ContinualConfig("continual:minatar", steps_per_task=40), 120),
    ],
)
def test_keeps_every_law(config, steps):
    assert "state in mid-episode" in check_env(lambda seed: Continual(config, seed), steps=steps)


@pytest.mark.parametrize(
    ("config", "places"),
    [
        (mixed(13, cycles=2), range(0, 60)),
        (
            ContinualConfig(
                tasks=("{name: atari:Pong, sticky: 0.25}", "atari:Boxing"), steps_per_task=20
            ),
            (7, 20, 21, 22, 30),
        ),
        (replace(config_for("continual:coinrun"), steps_per_task=20), (7, 20, 21, 22, 45)),
    ],
)
def test_saved_anywhere_it_goes_on_exactly(config, places):
    """In mid-episode, on the row of a switch, right after one, and before the first reset."""
    if "procgen" in config.tasks[0]:
        needs_procgen()
    for place in places:
        played = RandomPlay(Continual(config, 1), 0)
        played.rows(place)
        state = played.env.get_state()
        assert state is not None
        expected = RandomPlay(played.env, 5, played.running).rows(40)
        other = Continual(config, 2)
        RandomPlay(other, 3).rows(17)  # its own past must not matter
        assert not other.set_state(state)
        difference = first_difference(expected, RandomPlay(other, 5, played.running).rows(40))
        assert difference is None, (place, difference)


def test_held_out_levels_are_played_as_the_same_task():
    needs_procgen()
    config = ContinualConfig(
        tasks=(
            "{name: procgen:coinrun, label: many}",
            "{name: procgen:coinrun, label: one, num_levels: 1}",
        ),
        steps_per_task=20,
    )
    frames = {}
    for label in ("one", "one all levels"):
        env = Continual(evaluations(config)[label], seed=3)
        first = [env.reset() for _ in range(4)]
        assert {int(row.task[0]) for row in first} == {1}
        assert env.spec == replace(Continual(config, 0).spec, **scores(env.spec))
        frames[label] = {row.obs["image"].tobytes() for row in first}
        env.close()
    assert len(frames["one"]) == 1
    assert len(frames["one all levels"]) > 1


def scores(spec) -> dict:
    return {"random_score": spec.random_score, "reference_score": spec.reference_score}


def test_a_task_that_cannot_be_saved_starts_an_episode_and_the_schedule_goes_on(monkeypatch):
    monkeypatch.setattr(Catch, "get_state", lambda self: None)
    config = ContinualConfig(tasks=("catch", "memory:tmaze-3"), steps_per_task=20)
    vec = make_vec(config, 2, seed=0)
    before = play(vec, 10)
    restored = make_vec(config, 2, seed=9)
    assert restored.set_state(vec.get_state()) == [0, 1]
    rows = play(restored, 24)
    assert rows[0].is_first.all()
    assert counts(rows, 2)[0] == 20 - 10
    assert first_difference(before[:5], rows[:5]), "the same episode once more"
