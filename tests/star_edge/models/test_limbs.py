"""How STEP-CATFormer divides a body: the authors' sets for ntu25, every named layout, and refusal of others."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from runtime.errors import InputError
from runtime.skeleton import Skeleton
from star_edge.models.config import PaddedConfig
from star_edge.models.limbs import Division, arms_and_rest, layout_of, rest_and_legs, upper_and_lower
from star_edge.skeletons import COCO17, LAYOUTS, NTU25


def test_ntu25_is_divided_as_the_authors_do() -> None:
    legs = (16, 17, 18, 19, 12, 13, 14, 15)
    arms = (4, 5, 6, 7, 8, 9, 10, 11, 21, 22, 23, 24)
    assert arms_and_rest(NTU25) == (arms, (*legs, 0, 1, 2, 3, 20))
    assert rest_and_legs(NTU25) == ((*arms, 1, 2, 3, 20), (*legs, 0))
    assert upper_and_lower(NTU25) == ((2, 3, 10, 11, 6, 7, 8, 9, 4, 5, 20, 21, 22, 23, 24), (*legs, 0, 1))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("divide", [arms_and_rest, rest_and_legs, upper_and_lower])
def test_a_division_holds_every_joint_once(name: str, divide: Callable[[Skeleton], Division]) -> None:
    upper, lower = divide(LAYOUTS[name])
    assert sorted(upper + lower) == list(range(LAYOUTS[name].num_joints))
    assert min(len(upper), len(lower)) >= 5


def test_both_sides_have_as_many_joints_in_each_part() -> None:
    for layout in LAYOUTS.values():
        for divide in (arms_and_rest, rest_and_legs, upper_and_lower):
            for part in divide(layout):
                assert all((left in part) == (right in part) for left, right in layout.pairs)


def test_a_config_tells_its_layout() -> None:
    for layout in LAYOUTS.values():
        assert layout_of(PaddedConfig(layout.num_joints, 4, 10, layout.bones, layout.root)) is layout


def test_a_skeleton_without_a_named_layout_is_refused() -> None:
    config = PaddedConfig(17, 3, 10, COCO17.bones, COCO17.root)
    with pytest.raises(InputError, match="17 joints whose arms and legs are not known"):
        layout_of(msgspec.structs.replace(config, bones=config.bones[::-1]))
