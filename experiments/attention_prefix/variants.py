"""Four ways to imagine from all rows of a Transformer's training pass; all compute the same.

Letters: B sequences, T rows, M = B * T starts, L imagined steps, C window, D width, H heads, P head
width, Q starts of a block, N blocks (T / Q rounded up, times B).
"""

from dataclasses import dataclass
from typing import cast
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.backbones.attention import Attention, _wrap
from worldmodels.backbones.base import State
from worldmodels.backbones.stack import TransformerStack


@dataclass(frozen=True)
class Pass:
    """What a layer has at the end of a training pass; its first C rows are the incoming cache."""

    keys: Tensor
    values: Tensor
    segments: Tensor
    position: Tensor

    def emit(self, mixer: Attention) -> State:
        """The product's own emission of all M starts."""
        return mixer._states(self.keys, self.values, self.segments, self.position, "all")


def training_pass(
    backbone: TransformerStack, u: Tensor, state: State, reset: Tensor
) -> tuple[list[Pass], State]:
    """What `sequence` computes for every layer, and the state after it."""
    passes, states = [], Attention._states

    def record(self: Attention, keys, values, segments, position, emit) -> State:
        passes.append(Pass(keys, values, segments, position))
        return states(self, keys, values, segments, position, emit)

    with patch.object(Attention, "_states", record):
        _, last, _ = backbone.sequence(u, state, reset)
    return passes, last


class Copied:
    """The product: every start copies its window, every step gives a new state.

    The first state stays, as `Latents` keeps it while the product imagines.
    """

    def __init__(self, backbone: TransformerStack, passes: list[Pass], steps: int):
        self.backbone = backbone
        states = [run.emit(mixer) for mixer, run in zip(mixers(backbone), passes, strict=True)]
        self.start = self.state = State(
            {f"{i}.{name}": leaf for i, own in enumerate(states) for name, leaf in own.items()}
        )

    def step(self, u: Tensor) -> Tensor:
        """u [M, D_in] -> h [M, D]."""
        h, self.state = self.backbone.step(u, self.state, None)
        return h

    @property
    def nbytes(self) -> int:
        """Bytes of one state of all starts."""
        return self.start.nbytes_per_row * self.start.batch_size


class Clone(Copied):
    """As the product, but a step without resets copies the window in one go and clears no slot.

    The slots that `Attention.step` clears are zero already in every state that it or an emission
    made, unless there is a reset.
    """

    def step(self, u: Tensor) -> Tensor:
        """u [M, D_in] -> h [M, D]."""
        with patch.object(Attention, "step", _step_without_reset):
            return super().step(u)


def _step_without_reset(self: Attention, u: Tensor, state: State, reset: None):
    position = state["position"]
    query, key, value = self._project(u.unsqueeze(1), position.unsqueeze(1))
    where = (torch.arange(len(u), device=u.device), position % self.window)
    keys = state["key"].index_put(where, key[:, 0])
    values = state["value"].index_put(where, value[:, 0])
    slots = torch.arange(self.window, device=u.device)
    mixed = self._attend(query, keys, values, (slots <= position.unsqueeze(1)).unsqueeze(1))
    after = State({"key": keys, "value": values, "position": _wrap(position + 1)})
    return self.out(mixed.squeeze(1)), after


class InPlace:
    """States that are no values: `Layer` writes into them. The rest is the product's stack."""

    Layer: type["SharedLayer"] | type["RingLayer"]

    def __init__(self, backbone: TransformerStack, passes: list[Pass], steps: int):
        self.backbone = backbone
        pairs = zip(mixers(backbone), passes, strict=True)
        self.layers = [self.Layer(mixer, run, steps) for mixer, run in pairs]

    def step(self, u: Tensor) -> Tensor:
        """u [M, D_in] -> h [M, D]."""
        x = self.backbone.embed(u)
        for i, layer in enumerate(self.layers):
            x = x + layer.step(self.backbone.norms[i](x))
            x = x + self.backbone.mlps[i](x)
        return self.backbone.norm(x)

    @property
    def nbytes(self) -> int:
        """Bytes of all that the layers hold for the starts."""
        held = [x for layer in self.layers for x in vars(layer).values() if isinstance(x, Tensor)]
        return sum(x.nbytes for x in held)


class SharedLayer:
    """The pass in overlapping blocks (once a sequence, not once a start), and what is imagined."""

    def __init__(self, mixer: Attention, run: Pass, steps: int):
        self.mixer, self.position, self.done = mixer, run.position.flatten(), 0
        (self.batch, self.length), window = run.position.shape, mixer.window
        self.block = block = min(self.length, window)
        self.pad = -self.length % block
        self.keys, self.values = (
            F.pad(x, (0, 0, 0, 0, 0, self.pad))
            .unfold(1, window + block, block)
            .movedim(-1, 3)
            .flatten(0, 2)  # [N * H, C + Q, P]
            for x in (run.keys, run.values)
        )
        seen = F.pad(run.segments, (0, self.pad)).unfold(1, window + block, block).flatten(0, 1)
        ahead = torch.arange(window + block, device=seen.device)
        age = window + ahead[:block].unsqueeze(1) - ahead  # [Q, C + Q]
        reachable = (age >= 0) & (seen[:, window:].unsqueeze(-1) == seen.unsqueeze(1))
        self.age = torch.where(reachable, age, window).unsqueeze(1)  # [N, 1, Q, C + Q]
        own = (len(seen) * mixer.heads * block, steps, mixer.size)
        self.own_keys, self.own_values = (run.keys.new_zeros(own) for _ in range(2))

    def step(self, u: Tensor) -> Tensor:
        """u [M, D] -> mixed [M, D]; one softmax over the prefix and the own rows."""
        mixer, n, window = self.mixer, self.done + 1, self.mixer.window
        position = (self.position + n).unsqueeze(1)
        query, key, value = map(self._blocks, mixer._project(u.unsqueeze(1), position))
        self.own_keys[:, self.done] = key.flatten(0, 2)
        self.own_values[:, self.done] = value.flatten(0, 2)
        query = query * mixer.size**-0.5
        old = slice(min(n + 1, window + self.block), None)  # rows before are out of every window
        own = slice(max(n - window, 0), n)
        prefix = torch.bmm(query.flatten(0, 1), self.keys[:, old].mT).unflatten(
            0, (-1, mixer.heads)
        )
        prefix.masked_fill_(self.age[..., old] + n >= window, -torch.inf)
        recent = torch.bmm(self.own_keys[:, own], query.flatten(0, 2).unsqueeze(-1))
        scores = torch.cat([prefix, recent.view(*query.shape[:3], -1)], -1)
        weights = scores.softmax(-1)
        far, near = weights.split([prefix.shape[-1], own.stop - own.start], -1)
        mixed = torch.bmm(far.flatten(0, 1), self.values[:, old]).view_as(query)
        mixed = mixed + torch.bmm(near.flatten(0, 2).unsqueeze(1), self.own_values[:, own]).view_as(
            query
        )
        self.done = n
        mixed = mixed.transpose(1, 2).unflatten(0, (self.batch, -1)).flatten(1, 2)
        return mixer.out(mixed[:, : self.length].flatten(2).flatten(0, 1))

    def _blocks(self, x: Tensor) -> Tensor:
        """[M, 1, H, P] -> [N, H, Q, P]."""
        x = F.pad(x.view(self.batch, self.length, *x.shape[2:]), (0, 0, 0, 0, 0, self.pad))
        return x.unflatten(1, (-1, self.block)).flatten(0, 1).transpose(1, 2)


class RingLayer:
    """Copied windows as the product has them, but every step writes its slot into them."""

    def __init__(self, mixer: Attention, run: Pass, steps: int):
        self.mixer, state = mixer, run.emit(mixer)
        self.key, self.value, self.position = state["key"], state["value"], state["position"]
        self.rows = torch.arange(len(self.position), device=self.position.device)
        self.slots = torch.arange(mixer.window, device=self.position.device)

    def step(self, u: Tensor) -> Tensor:
        """u [M, D] -> mixed [M, D]."""
        mixer, position = self.mixer, self.position.unsqueeze(1)
        query, key, value = mixer._project(u.unsqueeze(1), position)
        where = (self.rows, self.position % mixer.window)
        self.key[where], self.value[where] = key[:, 0], value[:, 0]
        mixed = mixer._attend(query, self.key, self.value, (self.slots <= position).unsqueeze(1))
        self.position = self.position + 1
        return mixer.out(mixed.squeeze(1))


class Shared(InPlace):
    """A shared prefix, and an own cache of L rows for every start."""

    Layer = SharedLayer


class Ring(InPlace):
    """Copied windows that are written in place: what a step saves without any sharing."""

    Layer = RingLayer


def mixers(backbone: TransformerStack) -> list[Attention]:
    """The attention of every block."""
    return [cast(Attention, mixer) for mixer in backbone.mixers]
