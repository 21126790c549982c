"""World models, actor-critics and optimisers by name: what the options `*.name` choose.

Imports no torch: options stand apart from the classes that they are for.
"""

from dataclasses import fields
from typing import Any

from worldmodels.control.options import EnsembleConfig, ObservationConfig, SACConfig
from worldmodels.dreamer_options import ActorCriticConfig, WorldModelConfig
from worldmodels.errors import UserError, near
from worldmodels.iql_options import IQLConfig
from worldmodels.known_options import KnownConfig
from worldmodels.optimizer_options import AdamConfig, OptimizerConfig
from worldmodels.registry import BUILTIN, load

Kinds = dict[str, tuple[str, type]]
"""Name -> where its class is, and its options."""
WORLD_MODELS: Kinds = {
    "latent": ("worldmodels.world_model:WorldModel", WorldModelConfig),
    "known": ("worldmodels.true_dynamics:TrueDynamics", KnownConfig),
    "observation": ("worldmodels.observed:Observation", ObservationConfig),
    "ensemble": ("worldmodels.control.ensemble:EnsembleDynamics", EnsembleConfig),
}
ACTOR_CRITICS: Kinds = {
    "dreamer": ("worldmodels.actor_critic:ActorCritic", ActorCriticConfig),
    "iql": ("worldmodels.iql:IQL", IQLConfig),
    "sac": ("worldmodels.control.sac:SAC", SACConfig),
}
OPTIMIZERS: Kinds = {
    "laprop": ("worldmodels.optim:LaProp", OptimizerConfig),
    "adam": ("torch.optim:Adam", AdamConfig),
}
_BLOCKS: dict[str, Kinds] = {
    "world_model": WORLD_MODELS,
    "actor_critic": ACTOR_CRITICS,
    "optimizer": OPTIMIZERS,
    "backbone": BUILTIN,
}


def kinds_with(path: str) -> list[str]:
    """The names for `block.name` with which there is an option `path`, such as `block.units`.

    None for `block.name` itself, which is there with all of them.
    """
    block, _, option = path.partition(".")
    return [
        name
        for name, (_, options) in _BLOCKS.get(block, {}).items()
        if option != "name" and option in {field.name for field in fields(options)}
    ]


def world_model_config(name: str) -> Any:
    """The default options of the world model `name`."""
    return _find("world model", name, WORLD_MODELS)[1]()


def actor_critic_config(name: str) -> Any:
    """The default options of the actor-critic `name`."""
    return _find("actor-critic", name, ACTOR_CRITICS)[1]()


def optimizer_config(name: str) -> Any:
    """The default options of the optimiser `name`."""
    return _find("optimiser", name, OPTIMIZERS)[1]()


def world_model_class(name: str) -> Any:
    """The class of the world model `name`; imports torch."""
    return load(_find("world model", name, WORLD_MODELS)[0])


def actor_critic_class(name: str) -> Any:
    """The class of the actor-critic `name`; imports torch."""
    return load(_find("actor-critic", name, ACTOR_CRITICS)[0])


def optimizer_class(name: str) -> Any:
    """The class of the optimiser `name`; imports torch."""
    return load(_find("optimiser", name, OPTIMIZERS)[0])


def _find(what: str, name: str, kinds: Kinds) -> tuple[str, type]:
    if name not in kinds:
        raise UserError(f"no {what} '{name}'{near(name, kinds)}; there are {', '.join(kinds)}")
    return kinds[name]
