"""LaProp (Ziyin et al. 2020, arXiv 2002.04839) with adaptive gradient clipping (Brock et al. 2021).

LaProp normalises the gradient before the momentum; Adam with the same constants is another method.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class LaProp(torch.optim.Optimizer):
    """Per tensor: clip, nu = b2 nu + (1-b2) g^2, mu = b1 mu + (1-b1) g / sqrt(nu^), p -= lr mu^.

    `agc` bounds the gradient's norm by agc * max(1e-3, norm of the parameter), per whole tensor
    (0 turns it off). During `warmup` the step ramps: update n, from 0, uses lr (n + 1) / warmup.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        agc: float = 0.3,
        warmup: int = 0,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "agc": agc, "warmup": warmup}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update; parameters without a gradient are left alone."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(group, params, [p.grad for p in params])
        return loss

    def _step_group(self, group: dict, params: list[Tensor], grads: list[Tensor]) -> None:
        (beta1, beta2), states = group["betas"], [self._state(p) for p in params]
        mu, nu, count = ([s[key] for s in states] for key in ("mu", "nu", "count"))
        torch._foreach_add_(count, 1)
        n = count[0]  # one forward feeds all parameters of a group: their counts are equal
        if group["agc"]:
            bound = torch._foreach_norm(params)
            torch._foreach_clamp_min_(bound, 1e-3)
            torch._foreach_mul_(bound, group["agc"])
            excess = torch._foreach_norm(grads)
            torch._foreach_div_(excess, bound)
            torch._foreach_clamp_min_(excess, 1.0)
            grads = list(torch._foreach_div(grads, excess))
        torch._foreach_mul_(nu, beta2)
        torch._foreach_addcmul_(nu, grads, grads, 1 - beta2)
        root = torch._foreach_div(nu, _debias(beta2, n))
        torch._foreach_sqrt_(root)
        torch._foreach_add_(root, group["eps"])
        torch._foreach_mul_(mu, beta1)
        torch._foreach_addcdiv_(mu, grads, root, 1 - beta1)
        ramp = (n / group["warmup"]).clamp(max=1.0) if group["warmup"] else 1.0
        step = group["lr"] * ramp / _debias(beta1, n)
        torch._foreach_sub_(params, torch._foreach_mul(mu, step))

    def _state(self, p: Tensor) -> dict:
        state = self.state[p]
        if not state:
            state["count"] = torch.zeros((), device=p.device)
            state["mu"] = torch.zeros_like(p)
            state["nu"] = torch.zeros_like(p)
        return state


def _debias(beta: float, n: Tensor) -> Tensor:
    """1 - beta^n without cancellation in float32."""
    return -torch.expm1(n * math.log(beta))
