"""The laws that every backbone obeys, as checks; `worldmodels.backbones.testing` runs them all."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodels.backbones.base import Backbone, State

B, T = 3, 7
"""Rows and length of a trial."""
LONG = 150
"""Length of the one trial that fills windows and chunks of up to 64 rows twice."""
TOLERANCE = {torch.float64: (1e-9, 1e-10), torch.float32: (1e-4, 1e-5)}
"""Relative and absolute tolerance of a comparison."""

Run = Callable[[Tensor, State, Tensor], tuple[Tensor, State, State]]
"""u, state, reset -> h, last state, every state in the order b * T + t."""


class BackboneLawError(AssertionError):
    """A backbone breaks a law of the contract; `law` is its short name."""

    def __init__(self, law: str, what: str):
        super().__init__(f"law '{law}': {what}")
        self.law = law


def require(holds: bool, law: str, what: str) -> None:
    """Raise `BackboneLawError` unless `holds`."""
    if not holds:
        raise BackboneLawError(law, what)


@dataclass
class Trial:
    """A backbone in one dtype, with what it is fed and how results are compared."""

    backbone: Backbone
    dtype: torch.dtype

    def initial(self, rows: int) -> State:
        """`initial` in the trial's dtype."""
        return self.backbone.initial(rows).map(
            lambda leaf: leaf.to(self.dtype) if leaf.is_floating_point() else leaf
        )

    def inputs(self, rows: int = B, length: int = T) -> Tensor:
        """Random u [rows, length, D]."""
        device = next(iter(self.backbone.initial(1).values())).device
        return torch.randn(rows, length, self.backbone.input_size, dtype=self.dtype, device=device)

    def reached(self, rows: int = B) -> State:
        """A state that random inputs lead to, of another age in every row."""
        u = self.inputs(rows, 5)
        reset = torch.arange(5, device=u.device) == torch.arange(rows, device=u.device)[:, None]
        with torch.no_grad():
            return self.stepwise(u, self.initial(rows), reset)[1].clone()

    def sequence(self, u: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State, State]:
        """`sequence`, emitting every state."""
        h, last, emitted = self.backbone.sequence(u, state, reset, "all")
        if emitted is None:
            raise BackboneLawError("emitted states", "emit='all' gives None")
        return h, last, emitted

    def stepwise(self, u: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State, State]:
        """T calls of `step`, in the form of `sequence`."""
        outputs, states = [], []
        for t in range(u.shape[1]):
            h, state = self.backbone.step(u[:, t], state, reset[:, t])
            outputs.append(h)
            states.append(state)
        emitted = {k: torch.stack([s[k] for s in states], 1).flatten(0, 1) for k in state}
        return torch.stack(outputs, 1), state, State(emitted)

    def same(
        self, law: str, found: Tensor, expected: Tensor, what: str, at: Tensor | None = None
    ) -> None:
        """Equal shapes, and equal values within the dtype's tolerance.

        `at` [N, 2] says which (b, t) each row of axis 0 is; without it, axes 0 and 1 are b and t.
        """
        shapes = f"has shape {tuple(found.shape)}, not {tuple(expected.shape)}"
        require(found.shape == expected.shape, law, f"{what} {shapes}")
        error = (found.double() - expected.double()).abs()
        relative, absolute = TOLERANCE[self.dtype]
        differs = ~(error <= absolute + relative * expected.double().abs())
        if differs.any():
            at = every_row(*found.shape[:2]) if at is None else at
            b, t = first_of(at, differs)
            size = f"{what} differs by up to {float(error.max()):.3g} in {self.dtype}"
            raise BackboneLawError(law, f"{size}, first at (b, t) = ({b}, {t})")

    def same_state(
        self, law: str, found: State, expected: State, what: str, at: Tensor | None = None
    ) -> None:
        """Equal leaves; `at` [N, 2] as in `same`, by default the rows after step T - 1."""
        require(found.keys() == expected.keys(), law, f"{what} has the leaves {list(found)}")
        rows = expected.batch_size
        at = torch.stack([torch.arange(rows), torch.full((rows,), T - 1)], 1) if at is None else at
        for name in expected:
            self.same(law, found[name], expected[name], f"{what}, leaf '{name}',", at)


def every_row(rows: int, length: int) -> Tensor:
    """Every (b, t) [B * T, 2] in the order b * T + t."""
    return torch.cartesian_prod(torch.arange(rows), torch.arange(length))


def first_of(at: Tensor, differs: Tensor) -> list[int]:
    """The earliest (b, t) of `at` [N, 2] at which any entry of `differs` [N or B, T, ...] holds."""
    hit = at[differs.cpu().reshape(len(at), -1).any(1)]
    return hit[hit[:, 1].argmin()].tolist()


def no_reset(u: Tensor) -> Tensor:
    """False for every row of u [B, T, D]."""
    return torch.zeros(u.shape[:2], dtype=torch.bool, device=u.device)


@torch.no_grad()
def check_resets(trial: Trial) -> str:
    """Nothing before a reset changes, bit for bit, what comes after it; it starts at `initial`."""
    law = "a reset cuts the past"
    u, time = trial.inputs(), torch.arange(T)
    for cut in ([0, 1, 3], [2, T - 1, 4]):
        reset = (time == torch.tensor(cut)[:, None]).to(u.device)
        kept = reset.cumsum(1).bool()
        after, ends = kept.nonzero().cpu(), every_row(B, T)[T - 1 :: T]
        other = torch.where(kept[..., None], u, 10 * trial.inputs())
        for name, run in (("sequence", trial.sequence), ("step", trial.stepwise)):
            one, two = run(u, trial.reached(), reset), run(other, trial.reached(), reset)
            pairs = {"h": (one[0][kept], two[0][kept])}
            for leaf in one[1]:
                pairs[f"last state '{leaf}'"] = one[1][leaf], two[1][leaf]
                rows = kept.flatten()
                pairs[f"emitted state '{leaf}'"] = one[2][leaf][rows], two[2][leaf][rows]
            for what, (a, b) in pairs.items():
                if not torch.equal(a, b):
                    error = (a.double() - b.double()).abs()
                    at = after if len(a) == len(after) else ends
                    row, t = first_of(at, error > 0)
                    raise BackboneLawError(
                        law,
                        f"{name}: the {what} after a reset changes by up to "
                        f"{float(error.max()):.3g} with what came before it, first at (b, t) = "
                        f"({row}, {t})",
                    )
            for row, t in enumerate(cut):
                rest = u[row : row + 1, t:]
                fresh = run(rest, trial.initial(1), no_reset(rest))[0]
                what = f"{name}: h after a reset, against h from `initial`,"
                at = torch.stack([torch.full((T - t,), row), torch.arange(t, T)], 1)
                trial.same(law, one[0][row, t:], fresh[0], what, at)
    return law


@torch.no_grad()
def check_causality(trial: Trial) -> str:
    """No h changes with inputs after it."""
    law, known = "causality", T // 2
    u, state = trial.inputs(), trial.reached()
    later = torch.cat([u[:, :known], trial.inputs(length=T - known)], 1)
    one, two = (trial.sequence(x, state, no_reset(x)) for x in (u, later))
    trial.same(law, two[0][:, :known], one[0][:, :known], "h, where only later inputs changed,")
    return law


@torch.no_grad()
def check_rows(trial: Trial) -> str:
    """Rows do not see each other: any rows, in any order, give the same as in the whole batch."""
    law = "rows are independent"
    u, state = trial.inputs(), trial.reached()
    for name, run in (("sequence", trial.sequence), ("step", trial.stepwise)):
        h, last, _ = run(u, state, no_reset(u))
        for order in ([2, 0, 1], [1], [0, 0, 2, 1]):
            rows = torch.tensor(order, device=u.device)
            h2, last2, _ = run(u[rows], state.index(rows), no_reset(u[rows]))
            trial.same(law, h2, h[rows], f"{name}: h of the rows {order}")
            what = f"{name}: the state of the rows {order}"
            trial.same_state(law, last2, last.index(rows), what)
    return law


def no_resets() -> dict[str, Tensor]:
    """The pattern that `check_sequence` tries before resets come into play."""
    return {"none": torch.zeros(B, T, dtype=torch.bool)}


def reset_patterns() -> dict[str, Tensor]:
    """Name -> reset [B, T]; the edges of a window, and random ones."""
    patterns = {name: torch.zeros(B, T, dtype=torch.bool) for name in ("first", "last", "two")}
    patterns["first"][1:, 0] = True
    patterns["last"][:2, -1] = True
    patterns["two"][0, 3:5] = True
    patterns["every row"] = torch.ones(B, T, dtype=torch.bool)
    patterns["random"] = torch.rand(B, T) < 0.3
    patterns["one step"] = torch.tensor([[True], [False], [False]])
    return patterns


@torch.no_grad()
def check_sequence(trial: Trial, patterns: dict[str, Tensor]) -> list[str]:
    """`sequence` equals T calls of `step`, and emits the states after them."""
    law = "sequence equals step"
    u = trial.inputs()
    for name, reset in patterns.items():
        reset = reset.to(u.device)
        length = reset.shape[1]
        x, state = u[:, :length], trial.reached()
        h, last, every = trial.sequence(x, state, reset)
        h2, last2, every2 = trial.stepwise(x, state, reset)
        where = f"with resets '{name}'"
        trial.same(law, h, h2, f"{where}: h of sequence")
        trial.same_state(law, last, last2, f"{where}: the last state of sequence")
        at = every_row(B, length)
        trial.same_state("emitted states", every, every2, f"{where}: emit='all'", at)
        picked = torch.stack([torch.randint(B, (9,)), torch.randint(length, (9,))], 1).to(u.device)
        picked[-1] = picked[0]
        h3, _, some = trial.backbone.sequence(x, state, reset, picked)
        h4, _, none = trial.backbone.sequence(x, state, reset, None)
        require(none is None, "emitted states", "emit=None gives a state")
        assert some is not None
        rows = picked[:, 0] * length + picked[:, 1]
        what = f"{where}: emit=index"
        trial.same_state("emitted states", some, every2.index(rows), what, picked.cpu())
        for other in (h3, h4):
            trial.same(law, other, h2, f"{where}: h of sequence with another emit")
    first, state = u[:, :1], trial.reached()
    free = trial.backbone.step(first[:, 0], state, None)[0]
    h = trial.stepwise(first, state, no_reset(first))[0]
    trial.same(law, free.unsqueeze(1), h, "h of step without `reset`")
    return [law, "emitted states"]


def check_gradients(trial: Trial) -> str:
    """Gradients of h, of the last and of the emitted states reach inputs, state and parameters.

    In float64 they are compared with finite differences, so that a detached part shows.
    """
    law = "gradients"
    u, state = trial.inputs(), trial.reached()
    reset = reset_patterns()["last"].to(u.device)
    floating = [name for name, leaf in state.items() if leaf.is_floating_point()]
    sources = {"u": u} | {f"incoming state '{name}'": state[name] for name in floating}
    for name, run in (("sequence", trial.sequence), ("step", trial.stepwise)):

        def outputs(values: list[Tensor], run: Run = run) -> dict[str, Tensor]:
            incoming = State({**state, **dict(zip(floating, values[1:], strict=True))})
            h, last, every = run(values[0], incoming, reset)
            found = {"h": h} | {f"last state '{k}'": last[k] for k in floating}
            return found | {f"emitted state '{k}'": every[k] for k in floating}

        values = [x.clone().requires_grad_() for x in sources.values()]
        for target, output in outputs(values).items():
            weight = torch.randn_like(output)
            require(output.requires_grad, law, f"{name}: the {target} is detached")
            total = (output * weight).sum()
            grads = torch.autograd.grad(total, values, allow_unused=True, retain_graph=True)
            for index, (source, grad) in enumerate(zip(sources, grads, strict=True)):
                grad = torch.zeros_like(values[index]) if grad is None else grad
                where = f"{name}: the gradient of the {target} with respect to {source}"
                require(bool(torch.isfinite(grad).all()), law, f"{where} is not finite")
                if trial.dtype == torch.float64:
                    way = torch.randn_like(grad)
                    slope = _slope(outputs, target, values, index, way, weight)
                    error = abs(float((grad * way).sum()) - slope)
                    message = f"{where} is wrong by {error:.3g}; is a part of it detached?"
                    require(error < 1e-5 * (1 + abs(slope)), law, message)
    parameters = [p for p in trial.backbone.parameters() if p.requires_grad]
    total = trial.sequence(u, state, reset)[0].square().sum()
    for grad in torch.autograd.grad(total, parameters, allow_unused=True):
        finite = grad is None or bool(torch.isfinite(grad).all())
        require(finite, law, "the gradient of a parameter is not finite")
    return law


@torch.no_grad()
def _slope(
    outputs: Callable[[list[Tensor]], dict[str, Tensor]],
    target: str,
    values: list[Tensor],
    index: int,
    way: Tensor,
    weight: Tensor,
) -> float:
    """Central difference of sum(weight * outputs[target]) as values[index] moves along `way`."""
    moved, step, totals = list(values), 1e-6, []
    for shift in (step, -step):
        moved[index] = values[index] + shift * way
        totals.append(float((outputs(moved)[target] * weight).sum()))
    return (totals[0] - totals[1]) / (2 * step)
