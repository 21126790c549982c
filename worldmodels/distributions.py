"""Distributions of world models and policies: two-hot, one-hot, bounded normal.

Source: DreamerV3 (arXiv 2301.04104, 2025 form). Everything is computed in float32. Letters:
S stochastic groups, C classes per group, A action size.
"""

import math
from functools import cache, cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

UNIMIX = 0.01
"""Share of the uniform distribution mixed into every categorical."""


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|), elementwise."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """sign(x) (exp(|x|) - 1), the inverse of `symlog`."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


@cache
def default_bins(device: torch.device | str = "cpu") -> Tensor:
    """The 255 bins of the 2025 form: symexp of even spacing over [-20, 20], exactly symmetric."""
    with torch.inference_mode(False):  # what is kept must serve training, whoever asks first
        half = symexp(torch.linspace(-20, 0, 128, dtype=torch.float64, device="cpu")).float()
        return torch.cat([half, -half[:-1].flip(0)]).to(device)


class TwoHot:
    """A categorical over K bins whose mean is a real number; the bins are symmetric around 0."""

    def __init__(self, logits: Tensor, bins: Tensor):
        self.logits = logits
        self.bins = bins

    @classmethod
    def from_logits(cls, logits: Tensor, bins: Tensor | None = None) -> "TwoHot":
        """logits [..., K]; `bins` [K] default to the 255 of the 2025 form."""
        bins = default_bins(logits.device) if bins is None else bins
        if logits.shape[-1] != bins.shape[0]:
            raise ValueError(f"logits {tuple(logits.shape)} do not fit {bins.shape[0]} bins")
        return cls(logits.float(), bins.float())

    @cached_property
    def log_probs(self) -> Tensor:
        """[..., K]; a critic reads it twice, at the return and at the slow critic's value."""
        return self.logits.log_softmax(-1)

    def mean(self) -> Tensor:
        """Expectation [...]; exactly 0 for equal logits, because opposite bins are summed first."""
        probs = self.logits.softmax(-1)
        k = probs.shape[-1] // 2
        low = probs[..., :k] * self.bins[:k]
        high = probs[..., -k:] * self.bins[-k:]
        total = (low.flip(-1) + high).sum(-1)
        if probs.shape[-1] % 2:
            total = total + probs[..., k] * self.bins[k]
        return total

    def log_prob(self, x: Tensor) -> Tensor:
        """x [...] -> the log likelihood of its two-hot weights [...]."""
        low, weight = two_hot(x, self.bins)
        at_low = self.log_probs.gather(-1, low.unsqueeze(-1)).squeeze(-1)
        at_high = self.log_probs.gather(-1, low.unsqueeze(-1) + 1).squeeze(-1)
        return at_low * (1 - weight) + at_high * weight

    @staticmethod
    def encode(x: Tensor, bins: Tensor | None = None) -> Tensor:
        """x [...] -> weights [..., K], linear in raw distance between the two nearest bins."""
        bins = default_bins(x.device) if bins is None else bins
        low, weight = two_hot(x, bins)
        weights = torch.zeros(*x.shape, bins.shape[0], device=x.device)
        weights.scatter_(-1, low.unsqueeze(-1), (1 - weight).unsqueeze(-1))
        return weights.scatter_add_(-1, low.unsqueeze(-1) + 1, weight.unsqueeze(-1))


def two_hot(x: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """x [...] -> index of the bin below (int64, at most K - 2) and weight of the bin above."""
    x, bins = x.float(), bins.float()
    x = x.clamp(bins[0], bins[-1])
    low = (torch.searchsorted(bins, x.contiguous(), right=True) - 1).clamp(0, bins.shape[0] - 2)
    below, above = bins[low], bins[low + 1]
    return low, (x - below) / (above - below)


class OneHot:
    """Categorical over the last axis with a uniform share; leading axes are independent."""

    def __init__(self, probs: Tensor, log_probs: Tensor | None = None):
        self.probs = probs
        self._log_probs = log_probs

    @classmethod
    def from_logits(cls, logits: Tensor, unimix: float = UNIMIX) -> "OneHot":
        """logits [..., C] -> probs (1 - unimix) softmax(logits) + unimix / C, at least float32."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if unimix == 0:  # a probability may underflow, its logarithm not
            return cls(wide.softmax(-1), wide.log_softmax(-1))
        return cls((1 - unimix) * wide.softmax(-1) + unimix / logits.shape[-1])

    @property
    def log_probs(self) -> Tensor:
        """[..., C]."""
        return self.probs.log() if self._log_probs is None else self._log_probs

    def entropy(self) -> Tensor:
        """[...], in nats."""
        return -(self.probs * self.log_probs).sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """x one-hot [..., C] -> [...]."""
        return (self.log_probs * x).sum(-1)

    def mode(self) -> Tensor:
        """The most probable class, one-hot [..., C] float32."""
        return F.one_hot(self.probs.argmax(-1), self.probs.shape[-1]).float()

    def sample(
        self, generator: torch.Generator | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """An exact one-hot [..., C] in `dtype` (of `probs`); its gradient is that of `probs`."""
        hard = sample_onehot(self.probs.detach(), generator)
        return straight_through(hard, self.probs, dtype or self.probs.dtype)


def sample_onehot(probs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw from probs [..., C] by inverting the cumulative sum -> bool [..., C], one true each."""
    cumulative = probs.cumsum(-1)
    draw = torch.rand(probs.shape[:-1], generator=generator, device=probs.device).unsqueeze(-1)
    place = (cumulative[..., :-1] <= draw * cumulative[..., -1:]).sum(-1, keepdim=True)
    return place == torch.arange(probs.shape[-1], device=probs.device)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hard: Tensor, probs: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = probs.dtype
        return hard.to(dtype)

    @staticmethod
    def backward(ctx, *grads):
        return None, grads[0].to(ctx.dtype), None


def straight_through(hard: Tensor, probs: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """`hard` as the value, the identity to `probs` as the gradient; no rounding of the ones."""
    result = _StraightThrough.apply(hard, probs, dtype)
    assert isinstance(result, Tensor)
    return result


class BoundedNormal:
    """Normal with mean tanh(mu) and std in [0.1, 1] for actions in [-1, 1] (REINFORCE)."""

    def __init__(self, mean: Tensor, std: Tensor):
        self.mean = mean
        self.std = std

    @classmethod
    def from_parameters(cls, parameters: Tensor) -> "BoundedNormal":
        """parameters [..., 2 A] -> mean tanh(first half), std 0.9 sigmoid(second + 2) + 0.1."""
        mean, std = parameters.float().chunk(2, -1)
        return cls(torch.tanh(mean), 0.9 * torch.sigmoid(std + 2) + 0.1)

    def entropy(self) -> Tensor:
        """[...], in nats, summed over A."""
        return (self.std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """x [..., A] -> [...], summed over A."""
        scaled = (x - self.mean) / self.std
        return (-0.5 * scaled.square() - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def mode(self) -> Tensor:
        """The mean [..., A]."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """[..., A], unclipped and without gradient: the environment's wrapper clips."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return (self.mean + self.std * noise).detach()
