"""`worldmodels collect [ENV] --policy MIX --episodes N --out DATASET`: record a data set."""

from pathlib import Path
from typing import Any

import yaml

from worldmodels.cli.arguments import Parser, count
from worldmodels.cli.options import flag
from worldmodels.cli.run_folders import find_run
from worldmodels.cli.tables import print_table
from worldmodels.config import Config
from worldmodels.config_file import from_dict, load_config_file
from worldmodels.envs.registry import config_for
from worldmodels.errors import UserError

_ABOUT = """\
Record whole episodes as a Minari data set, losslessly. MIX names policies and their shares of the
episodes, as random:0.3+expert:0.7: `random`; of the run that --run names `expert` (its last
checkpoint), `medium` (the one of about a third of its score) and `replay` (what it had seen by
then); or RUN, or RUN@STEP, for the policy of any run. --env.OPTION VALUE sets an option of ENV."""


def run(argv: list[str]) -> None:
    """The command."""
    parser = Parser("collect", _ABOUT)
    parser.add_argument("env", nargs="?", metavar="ENV", help="environment; default: the run's")
    parser.add_argument("--policy", required=True, metavar="MIX", help="who plays")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the new data set")
    parser.add_argument("--episodes", type=count, default=100, help="whole episodes (100)")
    parser.add_argument("--run", default="", metavar="RUN", help="run folder of the levels")
    parser.add_argument("--seed", type=int, default=0, help="of environments and policies (0)")
    parser.add_argument("--envs", type=count, default=8, help="environments side by side (8)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    for name, what in (("min", "0; random play, say"), ("max", "1; an expert, say")):
        words = f"score that counts as {what} (default: the environment's, if known)"
        parser.add_argument(f"--ref-{name}-score", type=float, metavar="SCORE", help=words)
    options, rest = _options(argv)
    args = parser.read(rest)
    home = find_run(args.run) if args.run else None
    env = _environment(args.env, home, options)

    from worldmodels.offline.collect import Recording, collect  # torch, only now
    from worldmodels.offline.dataset import References

    recording = Recording(
        env,
        args.policy,
        args.episodes,
        home,
        args.seed,
        args.envs,
        args.device,
        References(args.ref_min_score, args.ref_max_score),
    )
    episodes, steps, parts = collect(recording, Path(args.out))
    print_table(("policy", "of", "step", "episodes", "mean return"), [_row(one) for one in parts])
    print(f"{episodes} episodes, {steps} steps: {args.out}; next:")
    print(f"  worldmodels train {env.name} --offline {args.out}")


def _options(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    """`--env.NAME VALUE` and `--env.NAME=VALUE` by name, as in a config file; all other words."""
    options: dict[str, Any] = {}
    rest, left = [], list(argv)
    while left:
        word, equals, value = left.pop(0).partition("=")
        if not word.startswith("--env."):
            rest.append(word + equals + value)
        elif equals or left:
            name = word.removeprefix("--env.").replace("-", "_")
            options[name] = _read(value if equals else left.pop(0))
        else:
            raise UserError(f"{word} needs a value")
    return options, rest


def _read(text: str) -> Any:
    """As YAML; what is none stays text, for the option's own error."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _environment(name: str | None, home: Path | None, options: dict[str, Any]) -> Any:
    """The config of the environment: as it was in the run, if that is the one."""
    played = load_config_file(home / "config.yaml").env if home else None
    if name:
        env = config_for(name)
        env = played if played and played.name == env.name else env
    elif played:
        env = played
    else:
        raise UserError(
            "name the environment first, as in `worldmodels collect catch --policy ...`"
        )
    return from_dict({"env": options}, Config(env=env), spell=flag).env


def _row(part: dict[str, Any]) -> list[str]:
    step = "-" if part["step"] is None else str(part["step"])
    score = f"{part['mean_return']:.3f}"
    return [part["policy"], part["run"] or "-", step, str(part["episodes"]), score]
