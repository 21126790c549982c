"""Losses of the world model (DreamerV3, arXiv 2301.04104, eq. 3 and the 2025 form).

Letters: S stochastic groups, C classes per group.
"""

from torch import Tensor

from worldmodels.distributions import UNIMIX, OneHot


def balanced_kl(
    post_logits: Tensor, prior_logits: Tensor, free_nats: float = 1.0, unimix: float = UNIMIX
) -> tuple[Tensor, Tensor]:
    """Raw logits [..., S, C] -> (dyn, rep) [...], unweighted, each at least `free_nats`.

    dyn = max(free, KL(sg(post) || prior)) teaches the prior, rep = max(free, KL(post || sg(prior)))
    the posterior; the KL is summed over the S groups before the maximum.
    """
    post, prior = OneHot.from_logits(post_logits, unimix), OneHot.from_logits(prior_logits, unimix)
    log_post, log_prior = post.log_probs, prior.log_probs

    def kl(probs: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
        return (probs * (log_p - log_q)).sum((-2, -1)).clamp(min=free_nats)

    dyn = kl(post.probs.detach(), log_post.detach(), log_prior)
    rep = kl(post.probs, log_post, log_prior.detach())
    return dyn, rep
