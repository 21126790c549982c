"""`check_backbone`: runs a backbone of your own and names the law that it breaks."""

import copy
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from worldmodels.backbones.base import Backbone, LeafSpec, State
from worldmodels.backbones.laws import (
    LONG,
    B,
    BackboneLawError,
    T,
    Trial,
    check_causality,
    check_gradients,
    check_resets,
    check_rows,
    check_sequence,
    every_row,
    no_reset,
    no_resets,
    require,
    reset_patterns,
)

__all__ = ["BackboneLawError", "check_backbone"]


def check_backbone(
    build_or_class: Callable[[Any, int], Backbone],
    config: Any = None,
    input_size: int = 6,
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32),
) -> list[str]:
    """Raise `BackboneLawError` at the first law broken; returns the laws that were checked.

    `build_or_class` is a `Backbone` class, or any function of (config, input_size); `config`
    defaults to the class's `Config()`. The backbone runs in `eval` mode, on copies whose parameters
    are shaken a little, so that a zero initialisation hides nothing. torch's global random stream
    stays as it was.
    """
    if config is None and hasattr(build_or_class, "Config"):
        config = build_or_class.Config()  # type: ignore
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = build_or_class(config, input_size).eval()
        laws = [_check_sizes(backbone, input_size), *_check_state(backbone)]
        for dtype in dtypes:
            trial = Trial(_shaken(backbone).to(dtype), dtype)
            laws += [check_rows(trial), check_causality(trial)]
            laws += [*check_sequence(trial, no_resets()), check_resets(trial)]
            laws += [*check_sequence(trial, reset_patterns()), check_gradients(trial)]
            laws.append(_check_long(trial))
        laws += _check_algebra(Trial(_shaken(backbone), torch.float32))
    return list(dict.fromkeys(laws))


def _shaken(backbone: Backbone) -> Backbone:
    backbone = copy.deepcopy(backbone)
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(torch.randn_like(p), alpha=0.02)
    return backbone


def _spec_of(state: State) -> dict[str, LeafSpec]:
    return {name: LeafSpec(tuple(leaf.shape[1:]), leaf.dtype) for name, leaf in state.items()}


@torch.no_grad()
def _check_sizes(backbone: Backbone, input_size: int) -> str:
    """`input_size` and `output_size` are what goes in and comes out."""
    law, size = "sizes", backbone.output_size
    asked = f"input_size is {backbone.input_size}, but it was built for {input_size}"
    require(backbone.input_size == input_size, law, asked)
    _check_first_step(backbone)
    u, state = Trial(backbone, torch.float32).inputs(), backbone.initial(B)
    h = backbone.step(u[:, 0], state, None)[0]
    require(h.shape == (B, size), law, f"step gives h {tuple(h.shape)}, not {(B, size)}")
    h = backbone.sequence(u, state, no_reset(u))[0]
    require(h.shape == (B, T, size), law, f"sequence gives h {tuple(h.shape)}, not {(B, T, size)}")
    return law


@torch.no_grad()
def _check_first_step(backbone: Backbone) -> None:
    """The first state is as declared; so is the one after a step, which leaves the first alone."""
    initial, spec = backbone.initial(B), backbone.state_spec()
    found = _spec_of(initial)
    require(found == spec, "initial state", f"initial gives {found}, state_spec says {spec}")
    for name, leaf in initial.items():
        equal = torch.equal(leaf, leaf[:1].expand_as(leaf))
        require(equal, "initial state", f"leaf '{name}' differs between the rows")
    kept, u = initial.clone(), Trial(backbone, torch.float32).inputs()[:, 0]
    state = backbone.step(u, initial, None)[1]
    kind = type(state).__name__
    require(isinstance(state, State), "declared state", f"step gives a {kind}, not a State")
    found = _spec_of(state)
    require(found == spec, "declared state", f"step gives {found}, state_spec says {spec}")
    _require_unwritten(initial, kept, "step")


def _require_unwritten(state: State, kept: State, name: str) -> None:
    for leaf in kept:
        wrote = f"{name} wrote into leaf '{leaf}' of the state that it was given"
        require(torch.equal(state[leaf], kept[leaf]), "a state is a value", wrote)


@torch.no_grad()
def _check_state(backbone: Backbone) -> list[str]:
    """The state is what `state_spec` and `output_leaf` say, a value, and starts row-identical."""
    trial, spec, initial = (
        Trial(backbone, torch.float32),
        backbone.state_spec(),
        backbone.initial(B),
    )
    u, kept = trial.inputs(), initial.clone()
    h, state = backbone.step(u[:, 0], initial, None)
    hs, last, emitted = trial.sequence(u, initial, no_reset(u))
    _require_unwritten(initial, kept, "sequence")
    reached = trial.reached()
    kept = reached.clone()
    backbone.step(u[:, 0], reached, None)
    _require_unwritten(reached, kept, "step")
    with torch.autocast(u.device.type, torch.bfloat16):
        half = backbone.step(u[:, 0], initial, None)[1]
        _, half_last, _ = trial.sequence(u, initial, no_reset(u))
    for what, some, rows in (
        ("step", state, B),
        ("sequence", last, B),
        ("sequence, emitting,", emitted, B * T),
        ("step under bfloat16 autocast", half, B),
        ("sequence under bfloat16 autocast", half_last, B),
    ):
        holds = _spec_of(some) == spec and some.batch_size == rows
        found = f"{some.batch_size} rows of {_spec_of(some)}, not {rows} rows of {spec}"
        require(holds, "declared state", f"{what} gives {found}")
    again = backbone.step(u[:, 0], initial, None)[0]
    hidden = "step gives another h when called again: it remembers something outside the state"
    require(torch.equal(again, h), "a state is a value", hidden)
    if backbone.output_leaf is not None:
        name = backbone.output_leaf
        equal = torch.equal(state[name], h) and torch.equal(last[name], hs[:, -1])
        require(equal, "output leaf", f"output_leaf is '{name}', but that leaf is not h")
    return ["initial state", "declared state", "a state is a value", "output leaf"]


def _check_long(trial: Trial) -> str:
    """`sequence` equals `step` over more rows than windows and chunks have, with few resets.

    In float64 the gradients too: they must pass from one chunk to the next.
    """
    law, where = "sequence equals step", f"over {LONG} rows"
    reset = torch.zeros(2, LONG, dtype=torch.bool)
    reset[0, LONG // 2] = reset[1, 64] = True
    u = trial.inputs(2, LONG).requires_grad_()
    reset = reset.to(u.device)
    one, two = (run(u, trial.initial(2), reset) for run in (trial.sequence, trial.stepwise))
    trial.same(law, one[0].detach(), two[0].detach(), f"{where}: h of sequence")
    at = every_row(2, LONG)
    last, every = two[1].detach(), two[2].detach()
    trial.same_state(law, one[1].detach(), last, f"{where}: the last state", at[LONG - 1 :: LONG])
    trial.same_state("emitted states", one[2].detach(), every, f"{where}: emit='all'", at)
    pairs = at[torch.randint(len(at), (40,))]
    with torch.no_grad():
        some = trial.backbone.sequence(u, trial.initial(2), reset, pairs.to(u.device))[2]
    assert some is not None
    picked = every.index((pairs[:, 0] * LONG + pairs[:, 1]).to(u.device))
    trial.same_state("emitted states", some, picked, f"{where}: emit=index", pairs)
    if trial.dtype == torch.float64:
        weight = torch.randn_like(one[0])
        found, wanted = (torch.autograd.grad((h[0] * weight).sum(), u)[0] for h in (one, two))
        trial.same("gradients", found, wanted, f"{where}: the gradient of sequence to u")
    return law


@torch.no_grad()
def _check_algebra(trial: Trial) -> list[str]:
    """Rows can be taken, repeated, mixed, joined, cut and saved; each goes on as it would have."""
    backbone, u, state, other = trial.backbone, trial.inputs(), trial.reached(), trial.reached()

    def go_on(some: State, rows: list[int]) -> Tensor:
        x = u[torch.tensor(rows, device=u.device)]
        return trial.sequence(x, some, no_reset(x))[0]

    h, h_other = go_on(state, [0, 1, 2]), go_on(other, [0, 1, 2])
    rows = torch.tensor([2, 0, 2], device=u.device)
    mask = torch.tensor([True, False, True], device=u.device)
    mixed = torch.where(mask[:, None, None], h, h_other)
    head, tail = State.cat([state, other]).split([B, B])
    for what, found, expected in (
        ("index", go_on(state.index(rows), [2, 0, 2]), h[rows]),
        ("expand", go_on(state.expand(2), [0, 0, 1, 1, 2, 2]), h.repeat_interleave(2, 0)),
        ("where", go_on(state.where(mask, other), [0, 1, 2]), mixed),
        ("cat and split, first part", go_on(head, [0, 1, 2]), h),
        ("cat and split, second part", go_on(tail, [0, 1, 2]), h_other),
    ):
        trial.same("state algebra", found, expected, f"h after {what}")

    file = io.BytesIO()
    torch.save(state.save(), file)
    file.seek(0)
    saved, spec, law = torch.load(file, weights_only=True), backbone.state_spec(), "save and load"
    trial.same(law, go_on(State.load(saved, spec), [0, 1, 2]), h, "h after save and load")
    name = next(iter(saved))
    leaf = saved[name]
    wrong = {
        "name": {("x" + k if k == name else k): v for k, v in saved.items()},
        "shape": saved | {name: torch.stack([leaf, leaf], 1)},
        "dtype": saved | {name: leaf.to(torch.float16)},
    }
    for what, leaves in wrong.items():
        try:
            State.load(leaves, spec)
        except ValueError:
            continue
        raise BackboneLawError(law, f"a saved state with a wrong {what} is accepted")
    return ["state algebra", law]
