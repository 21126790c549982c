"""Equal size: every backbone within 3 % of one total, or one sentence that says why not."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from worldmodels.bench.recording import env_spec
from worldmodels.bench.sizing import (
    TOLERANCE,
    Row,
    count_parameters,
    equal_sizes,
    nearest_width,
    width_option,
)
from worldmodels.errors import UserError
from worldmodels.learner import build_models
from worldmodels.presets import choose_config
from worldmodels.registry import backbone_names


@pytest.fixture(scope="module")
def make_row():
    """`make_row("gru", "hx")` with the model sizes of Catch."""
    spec = env_spec(choose_config("catch").config.env)

    def make(backbone: str, posterior: Any = "x") -> Row:
        return Row(choose_config("catch", backbone=backbone).config, spec, posterior)

    return make


def test_every_backbone_and_posterior_has_one_size(make_row):
    rows = [make_row(name, posterior) for name in backbone_names() for posterior in ("x", "hx")]
    found = equal_sizes(rows, 1_000_000, exact=False)
    assert len({sized.target for sized in found}) == 1
    for row, sized in zip(rows, found, strict=True):
        assert abs(sized.parameters / found[0].target - 1) <= TOLERANCE == 0.03
        built = build_models(sized.config, row.spec)[0]
        assert sum(p.numel() for p in built.parameters()) == sized.parameters
        same = replace(sized.config, backbone=row.config.backbone)
        assert same == row.config  # nothing but the backbone changed
        widened = replace(row.config.backbone, **{sized.option: sized.width})
        assert sized.config.backbone == widened
    assert {sized.config.world_model.posterior for sized in found} == {"x", "hx"}


def test_a_total_below_the_rest_of_the_model_is_refused(make_row):
    with pytest.raises(
        UserError, match=r"has no deter .* 1,000 parameters within 3%: .* deter 1, "
    ):
        equal_sizes([make_row("gru")], 1_000, exact=True)


def test_an_exact_total_that_does_not_fit_names_one_that_does(make_row):
    row = make_row("gru")
    row.count = lambda width: 1000 * (width // 16)  # type: ignore
    with pytest.raises(UserError, match=r"8,000 \(-5.9%\); --parameters \d+ suits all") as refused:
        equal_sizes([row], 8_500, exact=True)
    total = int(str(refused.value).rpartition("--parameters ")[2].split()[0])
    assert abs(equal_sizes([row], total, exact=True)[0].deviation) <= TOLERANCE
    assert equal_sizes([row], 8_500, exact=False)[0].target == total


def test_search_finds_the_nearest_width():
    def square(width: int) -> int:
        return 10 + width * width

    assert nearest_width(square, 10 + 80 * 80) == (80, 6410)
    assert nearest_width(square, 10 + 83 * 83) == (83, 6899)  # no multiple of 8 is near enough
    assert nearest_width(lambda width: None, 100) is None


def test_search_steps_over_widths_that_do_not_fit():
    def thirds(width: int) -> int | None:
        return None if width % 3 else 100 * width

    assert nearest_width(thirds, 24_000) == (240, 24_000)
    assert nearest_width(thirds, 3_300) == (33, 3_300)


def test_counting_allocates_nothing_and_draws_nothing(make_row):
    row, before = make_row("rssm"), torch.get_rng_state()
    config = row.at(100_000)  # 19 GiB of weights
    assert count_parameters(config, row.spec) > 2**31
    assert torch.equal(torch.get_rng_state(), before)


def test_a_backbone_without_a_width_is_named():
    @dataclass(frozen=True)
    class Options:
        name: str = "mine"

    with pytest.raises(UserError, match=r"mine has no option .*: give Options .*`width`"):
        width_option(Options())
