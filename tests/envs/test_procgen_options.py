"""Procgen's options and messages, held-out levels, CoinRun's variants, and states across processes.

What needs no emulator is tested where there is none, too.
"""

import pickle
import subprocess
import sys
import tomllib
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement

from worldmodels.envs import procgen_library, registry
from worldmodels.envs.errors import UserError
from worldmodels.envs.names import PROCGEN
from worldmodels.envs.procgen_config import ProcgenConfig, install_command
from worldmodels.envs.registry import config_for, make
from worldmodels.envs.rollout import RandomPlay, first_difference

installed = pytest.mark.skipif(find_spec("procgen") is None, reason="procgen is not installed")

COINRUN_VARIANTS: list[dict[str, Any]] = [{}]
for option in (
    {"use_backgrounds": False},
    {"restrict_themes": True},
    {"use_generated_assets": True},
    {"use_monochrome_assets": True},
    {"center_agent": False},
):
    COINRUN_VARIANTS.append(COINRUN_VARIANTS[-1] | option)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "procgen:maze", "distribution_mode": "extreme"},
            "procgen:maze: distribution_mode is extreme, but it must be easy or hard or memory or "
            "exploration",
        ),
        ({"distribution_mode": "memory"}, "it must be easy or hard or exploration"),
        (
            {"name": "procgen:bigfish", "distribution_mode": "exploration"},
            "it must be easy or hard",
        ),
        ({"distribution_mode": "harder"}, "distribution_mode is harder"),
        ({"num_levels": -1}, "num_levels is -1, but it must be from 0 to 2147483647"),
        ({"num_levels": 2**31}, "num_levels is 2147483648"),
        ({"start_level": 5}, "start_level is 5, but it must be 0 without a num_levels"),
        ({"num_levels": 10, "start_level": -1}, "start_level is -1, but it must be from 0 to"),
        ({"num_levels": 10, "start_level": 2**31 - 5}, "from 0 to 2147483637"),
        ({"distribution_mode": "exploration", "num_levels": 3}, "fixes the level"),
        ({"distribution_mode": "exploration", "start_level": 3}, "start_level is 3"),
        ({"max_steps": -1}, "max_steps is -1, but it must be at least 0"),
    ],
)
def test_a_bad_value_is_one_sentence(options, message):
    with pytest.raises(UserError) as info:
        ProcgenConfig(**options)
    assert message in str(info.value)
    assert "\n" not in str(info.value)


def test_held_out_levels_are_evaluated_apart():
    unlimited = config_for("procgen:coinrun")
    assert unlimited.evaluations == {"procgen:coinrun": unlimited}
    config = ProcgenConfig("procgen:CoinRun", "easy", num_levels=200, start_level=50)
    assert config.evaluations == {
        "procgen:coinrun": config,
        "procgen:coinrun all levels": ProcgenConfig("procgen:coinrun", "easy"),
    }


def test_the_normalising_constants():
    """Those of the paper, and the published score of coinrun with them."""
    from worldmodels.envs.procgen_scores import PROCGEN_SCORES

    assert tuple(PROCGEN_SCORES) == PROCGEN
    pairs = [pair for modes in PROCGEN_SCORES.values() for pair in modes.values()]
    assert len(pairs) == 32
    assert all(low < high for low, high in pairs)
    # DreamerV3, hard, 50M steps, the mean over all games: 66.01 % (Hafner et al. 2025).
    published = (8.62, 11.61, 9.42, 5.49, 11.43, 9.86, 10.93, 11.04)
    published += (8.51, 9.17, 7.05, 6.85, 5.71, 9.82, 23.81, 28.0)
    low, high = np.array([modes["hard"] for modes in PROCGEN_SCORES.values()]).T
    assert np.mean((published - low) / (high - low)) == pytest.approx(0.6601, abs=1e-4)


@installed
def test_the_spec_holds_the_constants_of_its_mode():
    def scores(**options):
        spec = make(ProcgenConfig("procgen:fruitbot", **options), 0).spec
        return spec.random_score, spec.reference_score

    assert scores() == (-0.5, 27.2)
    assert scores(distribution_mode="easy") == (-1.5, 32.4)
    memory = make(ProcgenConfig("procgen:maze", "memory"), 0).spec
    assert (memory.random_score, memory.reference_score) == (None, None)


@installed
def test_coinruns_six_variants_look_different():
    """On the same four levels; one level alone may have the restricted theme anyway."""

    def first_frames(options):
        return [
            make(ProcgenConfig(num_levels=1, start_level=level, **options), 0).reset().obs["image"]
            for level in (3, 7, 11, 15)
        ]

    frames = [np.stack(first_frames(options)) for options in COINRUN_VARIANTS]
    assert len(frames) == 6
    for a, b in combinations(frames, 2):
        assert (a != b).any(axis=-1).mean() > 0.05


@installed
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("use_backgrounds", False),
        ("restrict_themes", True),
        ("use_generated_assets", True),
        ("use_monochrome_assets", True),
        ("center_agent", False),
        ("paint_vel_info", True),
        ("distribution_mode", "easy"),
        ("num_levels", 3),
        ("start_level", 4),
        ("max_steps", 20),
    ],
)
def test_every_option_reaches_the_emulator(option, value):
    base: dict[str, Any] = {"num_levels": 9} if option == "start_level" else {}
    configs = ProcgenConfig(**base), ProcgenConfig(**base | {option: value})
    plain, other = (RandomPlay(make(config, 0), 0).rows(40) for config in configs)
    assert first_difference(plain, other) is not None


@installed
@pytest.mark.parametrize("ended", [False, True])
def test_a_state_continues_in_another_process(tmp_path, ended):
    config = ProcgenConfig("procgen:dodgeball", "easy")
    env = make(config, 4)
    player = RandomPlay(env, seed=0)
    player.rows(30)
    while player.running == ended:
        player.row()
    file = tmp_path / "state.pickle"
    file.write_bytes(pickle.dumps((config, env.get_state())))
    code = (
        "import pickle, sys; from worldmodels.envs.registry import make\n"
        "from worldmodels.envs.rollout import RandomPlay\n"
        "config, state = pickle.load(open(sys.argv[1], 'rb'))\n"
        "env = make(config, 99); env.set_state(state)\n"
        f"rows = RandomPlay(env, 7, {not ended}).rows(400)\n"
        "sys.stdout.buffer.write(pickle.dumps(rows))"
    )
    answer = subprocess.run([sys.executable, "-c", code, file], capture_output=True, check=True)
    mine = RandomPlay(env, 7, not ended).rows(400)
    assert first_difference(mine, pickle.loads(answer.stdout)) is None
    assert sum(row.is_last.item() for row in mine) >= 2


def _damaged(state):
    return state | {"emulator": state["emulator"][:-8]}


def _of_another_build(state):
    from hashlib import sha256

    emulator = b"\x07" + state["emulator"][1:]
    return state | {"emulator": emulator, "sha256": sha256(emulator).hexdigest()}


@installed
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_damaged, "its saved state is damaged"),
        (lambda state: state | {"emulator": None}, "its saved state is damaged"),
        (lambda state: {"config": state["config"]}, "its saved state is damaged"),
        (_of_another_build, "saved by another build of Procgen"),
        (lambda state: {"name": "atari:Pong", "emulator": b""}, "another kind of environment"),
        (
            lambda state: make(ProcgenConfig("procgen:maze"), 0).get_state(),
            "with name procgen:coinrun from a state saved with name procgen:maze",
        ),
        (
            lambda state: make(ProcgenConfig(num_levels=3), 0).get_state(),
            "with num_levels 0 from a state saved with num_levels 3",
        ),
    ],
)
def test_a_foreign_state_is_refused(spoil, message):
    """The emulator itself would abort the process; the environment plays on."""
    env, twin = make(ProcgenConfig(), 1), make(ProcgenConfig(), 1)
    with pytest.raises(UserError, match=message):
        env.set_state(spoil(env.get_state()))
    assert first_difference(RandomPlay(env, 0).rows(5), RandomPlay(twin, 0).rows(5)) is None


@installed
def test_closing_twice_is_harmless():
    env = make(ProcgenConfig(), 0)
    env.close()
    env.close()


@pytest.mark.parametrize(
    ("system", "machine", "python", "supported"),
    [
        ("linux", "x86_64", (3, 11), True),
        ("linux", "x86_64", (3, 12), True),
        ("linux", "x86_64", (3, 13), False),
        ("linux", "aarch64", (3, 12), False),
        ("darwin", "arm64", (3, 12), False),
        ("win32", "AMD64", (3, 12), False),
    ],
)
def test_the_extra_and_its_install_line_agree(system, machine, python, supported):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    (line,) = project["project"]["optional-dependencies"]["procgen"]
    marker = Requirement(line).marker
    platform = {"sys_platform": system, "platform_machine": machine}
    version = {"python_version": ".".join(map(str, python))}
    assert marker is not None
    assert marker.evaluate(platform | version) == supported
    command = install_command(system, machine, python)
    assert command.startswith('pip install "worldmodels-rl[procgen]"')
    assert ("Python 3.11 or 3.12 on Linux x86-64" in command) != supported


@pytest.fixture
def fresh_library(monkeypatch):
    """The library is looked for again, now and after the test."""
    caches = (procgen_library._folder, procgen_library._load)
    for cached in caches:
        cached.cache_clear()
    yield monkeypatch
    for cached in caches:
        cached.cache_clear()


def test_a_missing_package_prints_its_install_line(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package procgen, which is not installed; run: "):
        make(ProcgenConfig(), 0)


def test_a_package_without_an_emulator_says_so(fresh_library, tmp_path):
    spec = ModuleSpec("procgen", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    fresh_library.setattr(procgen_library, "find_spec", lambda name: spec)
    fresh_library.setattr(registry, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match=r"has no emulator in .*; run: pip install"):
        make(ProcgenConfig(), 0)


def test_another_binary_interface_is_refused(fresh_library, tmp_path):
    class Newer:
        def __init__(self, path, mode):
            pass

        def libenv_version(self):
            return 3

    fresh_library.setattr(procgen_library, "_folder", lambda: tmp_path)
    fresh_library.setattr(procgen_library.ctypes, "CDLL", Newer)
    with pytest.raises(UserError, match=r"version 3 of its .* drives version 1, that of procgen-m"):
        procgen_library._load()


def test_a_library_that_does_not_load_is_named(fresh_library, tmp_path):
    (tmp_path / "prebuilt").mkdir()
    (tmp_path / "prebuilt" / "libenv.so").write_bytes(b"not a library")
    fresh_library.setattr(procgen_library, "_folder", lambda: tmp_path)
    with pytest.raises(UserError, match=r"loading .*libenv.so failed"):
        procgen_library._load()
