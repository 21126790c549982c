"""`worldmodels train [ENV]`: settle the configuration, say where it comes from, train."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worldmodels.cli.choices import Choices, Request, choose, read_choices
from worldmodels.cli.options import apply_flags, flag, shown
from worldmodels.cli.run_folders import find_run
from worldmodels.config import Config
from worldmodels.config_file import (
    check_resumable,
    differences,
    dump_config,
    load_config_file,
)
from worldmodels.errors import UserError
from worldmodels.presets import Chosen


@dataclass(frozen=True)
class TrainChoices(Choices):
    """Train an agent, or resume a run."""

    resume: str = ""
    """Run folder to continue with its own configuration, and the flags given here over it."""
    online: bool = False
    """With --resume: a run that learned from a data set goes on in its environment."""
    run: str = ""
    """Folder of the new run; without one, a fresh folder under runs/."""
    quiet: bool = False
    """Print only what needs attention."""
    print_config: bool = False
    """Print the resulting configuration as YAML, and leave."""
    dry_run: bool = False
    """Build everything, run one update, print memory and speed, and leave."""


def run(argv: list[str]) -> None:
    """The command."""
    choices, request = read_choices(argv, "train", TrainChoices)
    config, notes = _settle(choices, request)
    if choices.print_config:
        print(dump_config(config), end="")
        return
    if not choices.quiet:
        print("\n".join(notes))
    if choices.dry_run:
        from worldmodels.dry_run import dry_run

        _print_dry_run(dry_run(config))
        return
    from worldmodels.trainer import train  # torch and lightning, only now

    folder = train(
        config,
        Path(choices.resume or choices.run) if choices.resume or choices.run else None,
        resume=bool(choices.resume),
        quiet=choices.quiet,
        command=shlex.join(["worldmodels", "train", *argv]),
    )
    if not choices.quiet:
        print(f"the run is in {folder}; next:")
        print(f"  worldmodels eval {folder}\n  worldmodels report {folder}")


def _settle(choices: TrainChoices, request: Request) -> tuple[Config, list[str]]:
    """The configuration, and a line for each of its sources."""
    if choices.resume:
        _refuse_beside_resume(choices, request)
        folder = find_run(choices.resume)
        saved = load_config_file(folder / "config.yaml")
        chosen = Chosen(_online(saved, choices), (f"resuming {folder}",))
    else:
        _online(Config(), choices)
        chosen = choose(choices, request)
    config = apply_flags(chosen, request, "train", choices)
    changes = differences(chosen.config, config)
    if not chosen.steps_are_set and config.steps == getattr(config.env, "total_steps", None):
        changes.pop("steps", None)  # nobody typed them: the stream is that long
    if choices.resume:
        check_resumable(chosen.config, config)
    if not changes:
        return config, list(chosen.notes)
    said = (f"{flag(name)} {shown(new)} (was {shown(old)})" for name, (old, new) in changes.items())
    return config, [*chosen.notes, f"command line: {', '.join(said)}"]


def _online(config: Config, choices: TrainChoices) -> Config:
    """The configuration that a run goes on with: with --online, in its environment."""
    if not choices.online:
        return config
    if not config.offline:
        raise UserError(
            "--online lets a run that learned from a data set go on in its environment: give it "
            "with --resume RUN, the folder of such a run; all others step theirs already"
        )
    return replace(config, offline="")


def _refuse_beside_resume(choices: TrainChoices, request: Request) -> None:
    """A resumed run has its environment, presets, backbone and folder already."""
    given = {"the environment": request.env} | {
        flag(name): getattr(choices, name) for name in ("preset", "config", "backbone", "run")
    }
    for name, value in given.items():
        if value:
            raise UserError(
                f"--resume takes everything from the run's config.yaml, so {name} cannot be given "
                "beside it; leave it out, or start a new run without --resume"
            )


def _print_dry_run(report: dict[str, Any]) -> None:
    """What one update takes, and what the run would."""
    print("\n".join(report["description"]))
    print(f"one update    {1000 * report['seconds_per_update']:.0f} ms")
    print(f"whole run     {report['updates']} updates, {report['hours_of_updates']:.2f} hours")
    print(f"peak memory   {report['peak_memory_gib']:.2f} GiB")
    if report["peak_gpu_memory_gib"] is not None:
        print(f"on the GPU    {report['peak_gpu_memory_gib']:.2f} GiB")
