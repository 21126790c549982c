"""`train`: the loop of a run, with its logs, evaluations and checkpoints."""

import time
from collections import deque
from pathlib import Path
from typing import Any, NoReturn

from worldmodels.config import Config
from worldmodels.config_file import check_resumable, load_config_file
from worldmodels.envs.registry import task_at, task_names
from worldmodels.errors import NonFinite, Stopped, UserError
from worldmodels.evaluation import EvaluationStopped, describe, evaluate_all
from worldmodels.files import save_tensors, unwritable
from worldmodels.replay import CorruptReplay
from worldmodels.resume import load_newest, set_aside
from worldmodels.runtime.checkpoint import Checkpoints
from worldmodels.runtime.clocks import Every, Timer
from worldmodels.runtime.console import Console
from worldmodels.runtime.fabric import choose_device
from worldmodels.runtime.logs import Logs
from worldmodels.runtime.memory import resident_gib
from worldmodels.runtime.rundir import RunFolder
from worldmodels.runtime.seeding import stream_seed
from worldmodels.runtime.signals import StopSignals
from worldmodels.system import NonFiniteLoss, System

RECENT = 100
"""Training episodes in the running mean of returns."""
_SHOWN = {
    "loss/dyn": "dyn loss",
    "loss/kl": "kl",
    "loss/decode/image": "image loss",
    "loss/reward": "reward loss",
    "loss/policy": "policy loss",
    "behaviour/value": "value",
    "behaviour/entropy": "entropy",
    "time/steps_per_second": "steps/s",
    "time/memory_gib": "memory GiB",
}
"""Metrics of the live view and their labels."""


def train(
    config: Config,
    run: str | Path | None = None,
    *,
    resume: bool = False,
    quiet: bool = False,
    command: str = "worldmodels.train(...)",
) -> Path:
    """Train until `config.steps` agent steps and return the run folder.

    `run` names the folder (default: a fresh one under runs/); with `resume` it is continued from
    its newest good checkpoint. Raises UserError for what the user can mend, `Stopped` after a
    signal (the run is saved), `NonFinite` where a loss is no number (the batch is dumped).
    """
    choose_device(config)  # refuses before a folder is made
    path = None if run is None else Path(run)
    if not resume:
        folder = RunFolder.create(path, config, command)
    elif path is None:
        raise UserError("to resume a run, name its folder")
    else:
        check_resumable(load_config_file(path / "config.yaml"), config)
        folder = RunFolder.open(path)
    try:
        with Console(folder.path, quiet) as console, StopSignals() as signals:
            Trainer(config, folder, console, signals).run(resume)
    except BrokenPipeError:  # whoever read our output has gone
        raise
    except OSError as error:  # a disk that filled up in mid-run, most often
        raise unwritable("run", folder.path, error) from error
    finally:
        folder.release()
    return folder.path


class Trainer:
    """One run: a `System` that collects and learns, and what is written about it."""

    def __init__(self, config: Config, folder: RunFolder, console: Console, signals: StopSignals):
        self.config, self.folder, self.console, self.signals = config, folder, console, signals
        self.system = System(config, folder.path)
        self.logs = Logs(folder.path, config.log.tensorboard)
        self.checkpoints = Checkpoints(folder.path / "checkpoints")
        self.log_clock = Every(config.log.every)
        self.eval_clock = Every(config.evaluation.every, at_start=True)
        self.save_timer = Timer(config.checkpoint.minutes)
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.seconds = 0.0
        self.evaluated = -1
        self._began = time.monotonic()
        self._last_log = (self._began, 0)
        self._latest: dict[str, float] = {}

    def run(self, resume: bool) -> None:
        """The whole run, and its status in the folder whatever happens."""
        self.console.say(*self.system.describe())
        try:
            if resume:
                self.restore()
                self.folder.write_config(self.config)
            else:
                self.console.say(*self.system.collector.start())
        except BaseException:
            self.close()
            raise
        try:
            self.set_status("running")
            self.loop()
            self.finish()
        except NonFiniteLoss as error:
            self.set_status("failed")
            raise NonFinite(self.dump(error)) from error
        except (Stopped, KeyboardInterrupt):
            self.set_status("stopped")
            raise
        except BaseException:
            self.set_status("failed")
            raise
        finally:
            self.close()

    def close(self) -> None:
        """Close logs, environments and replay."""
        self.logs.close()
        self.system.close()

    def loop(self) -> None:
        """Collect, learn, log, evaluate, save; until the steps are done or a signal arrives."""
        system = self.system
        while system.step < self.config.steps:
            if self.eval_clock.due(system.step):
                self.evaluate()
            for episode in system.collect():
                self.log_episode(episode)
            system.learn()
            if self.log_clock.due(system.step):
                self.log_metrics()
            if self.save_timer.due():
                self.save()
            self.console.show(self.config.env.name, system.step, self.config.steps, self.view())
            if self.signals.received:
                self.stop()

    def finish(self) -> None:
        """The last checkpoint is what is evaluated, never the best, and once."""
        if self.evaluated == self.system.step:
            self.console.say(f"done at step {self.system.step} already; raise --steps to go on")
        else:
            self.save()
            self.evaluate()
            self.save()
        self.set_status("done")

    def evaluate(self) -> None:
        """Every task on separate environments; the seed depends on the step alone."""
        options, system = self.config.evaluation, self.system
        if system.supply.tasks:
            self.console.say(f"evaluating {options.episodes} episodes at step {system.step}")
        seed = stream_seed(self.config.seed, f"evaluation/{system.step}")
        tasks = system.supply.tasks
        played = evaluate_all(system.agent, options, seed, self.signals.arrived, tasks)
        # On a boundary between two tasks, what was trained on is the one just finished.
        active = task_at(self.config.env, max(system.step - self.config.num_envs, 0))
        try:
            rows = [{"kind": "eval", "task": t, "active": active, **row} for t, row in played]
        except EvaluationStopped:
            self.eval_clock.passed -= 1  # the resumed run evaluates here first
            self.stop()
        for row in rows:  # together: a stop in between would repeat some of them
            self.logs.write_score(row)
            self.console.say(f"{row['task']} at step {system.step}: {describe(row)}")
        self.evaluated = system.step

    def stop(self) -> NoReturn:
        """Save and leave, as a signal asked."""
        self.save()
        assert self.signals.received is not None
        raise Stopped(
            f"stopped by {self.signals.received.name} at step {self.system.step}, and saved; "
            f"continue with: worldmodels train --resume {self.folder.path}",
            self.signals.received,
        )

    def log_episode(self, episode: dict[str, Any]) -> None:
        """A training episode has ended."""
        self.recent.append(episode["return"])
        task = task_names(self.config.env)[episode.pop("task")]
        self.logs.write_score({"kind": "train", "step": self.system.step, "task": task, **episode})

    def log_metrics(self) -> None:
        """One line of means since the last."""
        system, now = self.system, time.monotonic()
        then, step = self._last_log
        self._last_log = (now, system.step)
        values = system.means.pop()
        values |= {"train/updates": system.updates, "replay/rows": system.replay.rows}
        if self.recent:
            values["score/recent_mean"] = sum(self.recent) / len(self.recent)
        values["time/seconds"] = self.elapsed()
        values["time/steps_per_second"] = (system.step - step) / max(now - then, 1e-9)
        values["time/memory_gib"] = resident_gib()
        self.logs.write_metrics(system.step, values)
        self.set_status("running")
        self._latest = values

    def view(self) -> dict[str, str]:
        """The numbers of the live view."""
        latest = self._latest
        shown = {"updates": f"{self.system.updates}"}
        if self.recent:
            shown[f"return (last {len(self.recent)})"] = (
                f"{sum(self.recent) / len(self.recent):.3f}"
            )
        for name, label in _SHOWN.items():
            if name in latest:
                shown[label] = f"{latest[name]:.3g}"
        return shown

    def elapsed(self) -> float:
        """Seconds of training, earlier parts of a resumed run included."""
        return self.seconds + time.monotonic() - self._began

    def save(self) -> None:
        """A checkpoint; then what only older ones needed is deleted."""
        for module in (self.system.learner.world_model, self.system.learner.actor_critic):
            if not all(bool(p.isfinite().all()) for p in module.parameters()):
                raise NonFinite(
                    f"a parameter is no number at step {self.system.step}; the checkpoint of "
                    f"before is kept: worldmodels train --resume {self.folder.path}"
                )

        def write(folder: Path) -> None:
            state = self.system.save(folder)
            state |= {
                "clocks": [self.log_clock.passed, self.eval_clock.passed],
                "recent": list(self.recent),
                "seconds": self.elapsed(),
                "evaluated": self.evaluated,
                "logs": self.logs.state_dict(),
            }
            save_tensors(folder / "state.pt", state)

        self.checkpoints.save(self.system.step, write)
        kept = self.checkpoints.prune(self.config.checkpoint.keep)
        try:
            self.system.replay.collect_garbage([path / "replay" for path in kept])
        except CorruptReplay as error:  # an older checkpoint was damaged: nothing is deleted
            self.console.say(str(error))
        self.save_timer.restart()
        self.set_status("running")

    def restore(self) -> None:
        """Continue from the newest checkpoint that verifies; none yet means from the start, where
        everything is as it was before its first step.
        """
        self.checkpoints.clean()
        if found := load_newest(self.checkpoints, self.system, self.console.say):
            path, state, notes = found
            if self.config.steps < self.system.step:
                raise UserError(
                    f"the run has reached step {self.system.step} already; --steps "
                    f"{self.config.steps} lies behind it"
                )
            self.checkpoints.set_aside_newer(path)
            self.log_clock.passed, self.eval_clock.passed = state["clocks"]
            self.recent.extend(state["recent"])
            self.seconds, self.evaluated = state["seconds"], state["evaluated"]
            self.logs.load_state_dict(state["logs"])
            self._last_log = (time.monotonic(), self.system.step)
            self.console.say(f"resumed from {path}", *notes)
            return
        run = self.folder.path
        if self.checkpoints.steps() or self.folder.was_saved():
            raise UserError(
                f"no checkpoint in {self.checkpoints.folder} can be resumed: all are damaged or "
                f"gone; nothing was changed, `worldmodels replay export {run} --out DIR` reads its "
                f"rows, and `worldmodels train --config {run / 'config.yaml'}` starts anew"
            )
        self.console.say(set_aside(run))
        self.logs.load_state_dict({"metrics": 0, "scores": 0})
        self.console.say(*self.system.collector.start())

    def dump(self, error: NonFiniteLoss) -> str:
        """Keep what gave no number beside the run; returns what to tell."""
        path = self.folder.path / f"nonfinite_step_{self.system.step}.pt"
        self.system.dump(error, path)
        return (
            f"{error} at step {self.system.step}, update {self.system.updates}: batch and "
            f"parameters are in {path}, {len(self.checkpoints.steps())} checkpoints of before are "
            "kept; lower --optimizer.learning-rate, or look for what is not finite in the batch"
        )

    def set_status(self, status: str) -> None:
        """Note the run's state in its folder."""
        saved = bool(self.checkpoints.steps())
        self.folder.set_status(status, self.system.step, self.config.steps, saved=saved)
