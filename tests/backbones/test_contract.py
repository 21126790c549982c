"""`check_backbone` passes every backbone of the project and catches every planted fault."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from worldmodels.backbones.base import Backbone, LeafSpec, State, emit_states, gather_rows
from worldmodels.backbones.configs import (
    AttentionOptions,
    DeltaNetOptions,
    HybridConfig,
    Mamba2Options,
    Mamba3Options,
    MambaOptions,
)
from worldmodels.backbones.stack import MIXERS, Hybrid
from worldmodels.backbones.testing import BackboneLawError, check_backbone
from worldmodels.registry import backbone_class, backbone_config, backbone_names

LAWS = {
    "sizes",
    "initial state",
    "declared state",
    "a state is a value",
    "output leaf",
    "a reset cuts the past",
    "causality",
    "rows are independent",
    "sequence equals step",
    "emitted states",
    "gradients",
    "state algebra",
    "save and load",
}


@pytest.mark.parametrize("name", backbone_names())
def test_registered_backbones_obey_every_law(name, small_backbones):
    assert set(check_backbone(backbone_class(name), small_backbones[name])) == LAWS


@pytest.mark.parametrize(("layers", "blocks"), [(1, 1), (3, 4)])
def test_rssm_variants(layers, blocks):
    config = replace(backbone_config("rssm"), deter=16, hidden=8, layers=layers, blocks=blocks)
    check_backbone(backbone_class("rssm"), config, input_size=5)


def test_a_stack_of_every_kind_of_block():
    config = HybridConfig(
        width=8,
        stack=tuple(MIXERS),
        attention=AttentionOptions(heads=2, window=2),
        mamba=MambaOptions(state=2),
        mamba2=Mamba2Options(heads=2, state=2, chunk=3),
        mamba3=Mamba3Options(heads=2, state=4, chunk=3),
        deltanet=DeltaNetOptions(heads=2, key=3, chunk=3),
    )
    check_backbone(Hybrid, config, dtypes=(torch.float64,))


def test_a_stack_names_what_is_wrong():
    for config, message in (
        (HybridConfig(stack=()), "at least one block"),
        (HybridConfig(stack=("mamba9",)), "no block is called 'mamba9'; there are attention"),
        (
            HybridConfig(stack=("attention",), width=10),
            r"width 10 is no multiple of 2 \* heads = 8",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            Hybrid(config, 6)


@dataclass(frozen=True)
class TinyConfig:
    name: str = "tiny"
    width: int = 5


class Tiny(Backbone):
    """A user's backbone: `step` alone, a float leaf that is not h, and an integer leaf."""

    Config = TinyConfig

    def __init__(self, config: TinyConfig, input_size: int):
        super().__init__(config, input_size, 4)
        self.inner = nn.Linear(input_size + config.width, config.width)
        self.outer = nn.Linear(config.width, 4)

    def state_spec(self) -> dict[str, LeafSpec]:
        return {"memory": LeafSpec((self.config.width,)), "age": LeafSpec((), torch.int64)}

    def step(self, u: Tensor, state: State, reset: Tensor | None) -> tuple[Tensor, State]:
        state = self.apply_reset(state, reset)
        memory = self.remember(u, state["memory"])
        h = self.outer(memory) / (1 + state["age"].unsqueeze(1))
        return h, State({"memory": memory, "age": state["age"] + 1})

    def remember(self, u: Tensor, memory: Tensor) -> Tensor:
        return torch.tanh(self.inner(torch.cat([u, memory], 1))).to(memory.dtype)


def test_step_alone_makes_a_backbone():
    assert set(check_backbone(Tiny)) == LAWS
    assert set(check_backbone(lambda config, size: Tiny(TinyConfig(width=config), size), 3)) == LAWS


def test_the_callers_random_stream_stays():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    check_backbone(Tiny, dtypes=(torch.float32,))
    assert torch.equal(torch.rand(3), expected)


PLANTED: list[tuple[str, type[Backbone]]] = []


def breaks(law: str):
    """Register a broken backbone with the law that it breaks."""

    def register(cls: type[Backbone]) -> type[Backbone]:
        PLANTED.append((law, cls))
        return cls

    return register


@breaks("sizes")
class WrongOutputSize(Tiny):
    def __init__(self, config, input_size):
        super().__init__(config, input_size)
        self.output_size = 7


@breaks("sizes")
class WrongInputSize(Tiny):
    def __init__(self, config, input_size):
        super().__init__(config, input_size)
        self.input_size += 1


@breaks("initial state")
class RowsStartDifferently(Tiny):
    def initial(self, batch_size):
        state = super().initial(batch_size)
        return State({**state, "memory": torch.randn_like(state["memory"])})


@breaks("initial state")
class InitialHasAnotherDtype(Tiny):
    def initial(self, batch_size):
        state = super().initial(batch_size)
        return State({**state, "age": state["age"].int()})


@breaks("declared state")
class StateGrows(Tiny):
    def step(self, u, state, reset):
        h, state = super().step(u, State({k: state[k] for k in ("memory", "age")}), reset)
        return h, State({**state, "extra": h})


@breaks("declared state")
class GivesADict(Tiny):
    def step(self, u, state, reset):  # type: ignore
        h, new = super().step(u, state, reset)
        return h, dict(new)


@breaks("declared state")
class LeafOfAnotherShape(Tiny):
    def step(self, u, state, reset):
        h, new = super().step(u, state, reset)
        return h, State({**new, "memory": new["memory"][:, :2]})


@breaks("declared state")
class NarrowsUnderAutocast(Tiny):
    def remember(self, u, memory):
        return torch.tanh(self.inner(torch.cat([u, memory], 1)))


@breaks("a state is a value")
class WritesIntoItsState(Tiny):
    def step(self, u, state, reset):
        h, new = super().step(u, state, reset)
        state["memory"].copy_(new["memory"].detach())
        return h, new


@breaks("a state is a value")
class WritesWhereNothingSees(Tiny):
    def step(self, u, state, reset):
        h, new = super().step(u, state, reset)
        state["memory"].data.mul_(0.5)
        return h, new


@breaks("a state is a value")
class CountsItsCalls(Tiny):
    calls = 0

    def step(self, u, state, reset):
        self.calls += 1
        h, new = super().step(u, state, reset)
        return h + self.calls, new


@breaks("output leaf")
class OutputLeafIsNotH(Tiny):
    output_leaf = "memory"

    def __init__(self, config, input_size):
        super().__init__(replace(config, width=4), input_size)


@breaks("a reset cuts the past")
class ForgetsResets(Tiny):
    def apply_reset(self, state, reset):
        return state


@breaks("a reset cuts the past")
class LeaksALittle(Tiny):
    def apply_reset(self, state, reset):
        clean = super().apply_reset(state, reset)
        return State({**clean, "memory": clean["memory"] + 1e-6 * state["memory"]})


@breaks("a reset cuts the past")
class ResetsAfterTheInput(Tiny):
    def step(self, u, state, reset):
        h, new = super().step(u, state, None)
        return h, self.apply_reset(new, reset)


@breaks("a reset cuts the past")
class ResetsToAnotherStart(Tiny):
    def apply_reset(self, state, reset):
        start = self.initial(state.batch_size).map(lambda leaf: leaf + 1)
        return state if reset is None else start.where(reset, state)


@breaks("a reset cuts the past")
class SequenceSeesOnlyTheFirstReset(Tiny):
    def sequence(self, u, state, reset, emit=None):
        later = torch.zeros_like(reset)
        later[:, 0] = reset[:, 0]
        return super().sequence(u, state, later, emit)


@breaks("causality")
class LooksAhead(Tiny):
    def sequence(self, u, state, reset, emit=None):
        return super().sequence(u + 0.1 * u.mean(1, keepdim=True), state, reset, emit)


@breaks("rows are independent")
class NormalisesOverTheBatch(Tiny):
    def remember(self, u, memory):
        return super().remember(u - 0.1 * u.mean(0), memory)


@breaks("sequence equals step")
class SequenceIsAnotherFunction(Tiny):
    def sequence(self, u, state, reset, emit=None):
        h, last, emitted = super().sequence(u, state, reset, emit)
        return h * 1.01, last, emitted


@breaks("sequence equals step")
class LastStateIsOneShort(Tiny):
    def sequence(self, u, state, reset, emit=None):
        h, last, emitted = super().sequence(u, state, reset, emit)
        return h, State({**last, "age": last["age"] - 1}), emitted


@breaks("emitted states")
class EmitsTimeFirst(Tiny):
    def sequence(self, u, state, reset, emit=None):
        h, last, emitted = super().sequence(u, state, reset, emit)
        if emitted is not None and isinstance(emit, str):
            rows = torch.arange(emitted.batch_size).view(reset.shape).T.flatten()
            emitted = emitted.index(rows)
        return h, last, emitted


@breaks("emitted states")
class EmitsTheStateBefore(Tiny):
    def sequence(self, u, state, reset, emit=None):
        if isinstance(emit, Tensor):
            emit = torch.stack([emit[:, 0], (emit[:, 1] - 1).clamp(min=0)], 1)
        return super().sequence(u, state, reset, emit)


@breaks("emitted states")
class DropsRepeats(Tiny):
    def sequence(self, u, state, reset, emit=None):
        emit = emit.unique(dim=0) if isinstance(emit, Tensor) else emit
        return super().sequence(u, state, reset, emit)


@breaks("gradients")
class DetachesEmitted(Tiny):
    def sequence(self, u, state, reset, emit=None):
        h, last, emitted = super().sequence(u, state, reset, emit)
        return h, last, emitted and emitted.detach()


@breaks("gradients")
class DetachesBetweenChunks(Tiny):
    def sequence(self, u, state, reset, emit=None):
        outputs, states = [], []
        for t in range(u.shape[1]):
            state = state.detach() if t % 64 == 63 else state
            h, state = self.step(u[:, t], state, reset[:, t])
            outputs.append(h)
            states.append(state)
        return torch.stack(outputs, 1), state, emit_states(states, emit)


@breaks("emitted states")
class EmitsLatePairsOneRowEarly(Tiny):
    def sequence(self, u, state, reset, emit=None):
        if isinstance(emit, Tensor):
            emit = torch.stack([emit[:, 0], emit[:, 1] - (emit[:, 1] > 8).long()], 1)
        return super().sequence(u, state, reset, emit)


@breaks("gradients")
class DetachesItsState(Tiny):
    def remember(self, u, memory):
        return super().remember(u, memory.detach())


@breaks("gradients")
class GradientIsNotANumber(Tiny):
    def remember(self, u, memory):
        return super().remember(u, memory) + 0 * (u - u).abs().sqrt().sum(1, keepdim=True)


@pytest.mark.parametrize(("law", "broken"), PLANTED, ids=lambda x: getattr(x, "__name__", None))
def test_planted_fault_is_named(law, broken):
    with pytest.raises(BackboneLawError) as error:
        check_backbone(broken)
    assert error.value.law == law, error.value
    assert f"law '{law}'" in str(error.value)


def test_a_fault_that_shows_late_is_found():
    class Forgets(Tiny):
        """Its own loop loses the memory after 100 rows."""

        def sequence(self, u, state, reset, emit=None):
            later = reset.clone()
            later[:, 100:101] = True
            return super().sequence(u, state, later, emit)

    with pytest.raises(BackboneLawError, match=r"over 150 rows.*first at \(b, t\) = \(0, 100\)"):
        check_backbone(Forgets)


@pytest.mark.parametrize("late", [0, 3, 6])
@pytest.mark.parametrize("what", ["h", "emitted"])
def test_the_first_difference_is_named(late: int, what: str):
    """A fault from row `late` on is reported there, in the first sequence."""

    class Late(Tiny):
        def sequence(self, u, state, reset, emit=None):
            h, last, emitted = super().sequence(u, state, reset, emit)
            wrong = torch.zeros(u.shape[:2], dtype=u.dtype)
            wrong[:, late:] = 1
            if what == "h":
                return h + wrong.unsqueeze(-1), last, emitted
            if emit is None or emitted is None:
                return h, last, None
            wrong = gather_rows(wrong, emit).unsqueeze(-1)
            return h, last, State({**emitted, "memory": emitted["memory"] + wrong})

    with pytest.raises(BackboneLawError, match=rf"first at \(b, t\) = \(0, {late}\)"):
        check_backbone(Late)
