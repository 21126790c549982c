"""Options of the value learner; imports no torch."""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from worldmodels.bounds import check_bounds
from worldmodels.errors import UserError
from worldmodels.parts import check_values

_AT_LEAST = {
    "critics": 1,
    "lcb": 0,
    "subset": 1,
    "prior_scale": 0,
    "diversity_weight": 0,
    "reach_penalty": 0,
    "memory": 16,
}


@dataclass(frozen=True)
class ValuesConfig:
    """The critic, or an ensemble of them. All options but `kind` are those of `ravl`."""

    SHAPES: ClassVar[tuple[str, ...]] = ("kind", "critics", "novelty", "memory")
    """Options that shape what a checkpoint holds."""
    SHAPES_AT_0: ClassVar[tuple[str, ...]] = ("prior_scale", "reach_penalty")
    """Those that do so by being 0 or not."""
    kind: str = "plain"
    """`plain` is one critic (DreamerV3), `ravl` an ensemble with pessimism where no critic has
    learned (reach-aware value learning), or file.py:Class or package.module:Class."""
    critics: int = 5
    """Critics, each with weights of its own."""
    reducer: Literal["mean", "min", "lcb", "subset_min"] = "min"
    """How their values become one: the mean, the least, mean - lcb x deviation, or the least of a
    random few."""
    lcb: float = 1.0
    """Deviations below the mean, for the reducer lcb."""
    subset: int = 2
    """Critics drawn for each minimum, for the reducer subset_min."""
    prior_scale: float = 0.2
    """Size of the frozen random function in every critic, in running spans of returns (range of
    their percentiles and 0); 0: none."""
    diversity: Literal["none", "gradient", "spread"] = "none"
    """What keeps critics apart at the last imagined state: a loss on the cosine between their
    gradients, or a bonus for their deviation."""
    diversity_weight: float = 0.01
    """Weight of that loss."""
    reach_penalty: float = 0.3
    """Taken off a bootstrap at a state that is far from all that critics learned at, in running
    spans of returns; 0: nothing."""
    novelty: Literal["exact", "rnd", "knn"] = "knn"
    """How far a state is judged to be: a table of all states (small tasks), random network
    distillation, or the distance to the nearest of a memory."""
    memory: int = 4096
    """States in the memory of knn, a multiple of 16."""

    def __post_init__(self):
        check_values(self.kind)
        check_bounds(self, "values.", _AT_LEAST)
        if self.memory % 16:
            raise UserError(f"values.memory is a multiple of 16, not {self.memory}")
        if self.reducer == "subset_min" and self.subset > self.critics:
            raise UserError(f"values.subset is at most values.critics, {self.critics}")
        if self.diversity != "none" and self.critics < 2:
            raise UserError("values.diversity needs values.critics of at least 2")
        if self.kind == "plain":
            for field_ in fields(self):
                if field_.name != "kind" and getattr(self, field_.name) != field_.default:
                    raise UserError(
                        f"values.{field_.name} is an option of --values.kind ravl, not of plain; "
                        "give both, or leave it out"
                    )
        if self.kind == "ravl":
            self._refuse_idle()

    def _refuse_idle(self) -> None:
        """UserError for an option that does nothing beside the others."""
        needs = {
            "lcb": ("reducer lcb", self.reducer == "lcb"),
            "subset": ("reducer subset_min", self.reducer == "subset_min"),
            "diversity_weight": ("diversity gradient or spread", self.diversity != "none"),
            "novelty": ("reach-penalty above 0", self.reach_penalty > 0),
            "memory": (
                "novelty knn and a reach-penalty above 0",
                self.novelty == "knn" and self.reach_penalty > 0,
            ),
        }
        defaults = {field_.name: field_.default for field_ in fields(self)}
        for name, (need, given) in needs.items():
            if not given and getattr(self, name) != defaults[name]:
                raise UserError(
                    f"values.{name} does something with --values.{need} only; give that too, or "
                    "leave it out"
                )


def check_no_values(values: ValuesConfig, name: str) -> None:
    """UserError if somebody chose a value learner for the actor-critic `name`, with its own."""
    if values != ValuesConfig():
        raise UserError(
            f"values.* are options of actor_critic.name dreamer; {name} has critics of its own, "
            "as many as actor_critic.critics"
        )
