"""The calibration table: same content same bytes, and no range that cannot become a scale."""

import json

import msgspec
import pytest

from runtime.calibration_table import CalibrationTable
from runtime.errors import InputError, MismatchError

TABLE = CalibrationTable(
    method="entropy",
    samples=2,
    requested_samples=512,
    clips=("b", "a"),
    weights_sha256="ab" * 32,
    ranges={"layers.0.temporal.qkv.in": 3.5, "embedding.in": 1e-6},
)


def test_round_trip() -> None:
    assert CalibrationTable.from_bytes(TABLE.to_bytes()) == TABLE
    assert list(json.loads(TABLE.to_bytes())["ranges"]) == ["embedding.in", "layers.0.temporal.qkv.in"]


def test_order_of_the_ranges_does_not_change_the_bytes() -> None:
    turned = msgspec.structs.replace(TABLE, ranges=dict(reversed(TABLE.ranges.items())))
    assert turned.to_bytes() == TABLE.to_bytes()


@pytest.mark.parametrize("amax", [0, -1, None, "1", 1e999])
def test_range_that_cannot_become_a_scale(amax: object) -> None:
    document = json.loads(TABLE.to_bytes())
    document["ranges"]["embedding.in"] = amax
    data = json.dumps(document).replace("Infinity", "1e999").encode()
    with pytest.raises(InputError):
        CalibrationTable.from_bytes(data, where="calibration.json")


@pytest.mark.parametrize("amax", [float("nan"), float("inf")])
def test_computed_range_that_is_not_finite(amax: float) -> None:
    with pytest.raises(InputError, match=r"embedding\.in"):
        msgspec.structs.replace(TABLE, ranges={"embedding.in": amax}).check()


def test_contradictions() -> None:
    with pytest.raises(InputError, match="contradicts"):
        msgspec.structs.replace(TABLE, samples=3).check()
    with pytest.raises(InputError, match="without ranges"):
        msgspec.structs.replace(TABLE, ranges={}).check()
    with pytest.raises(InputError):
        CalibrationTable.from_bytes(b"{")


def test_newer_schema_and_other_weights() -> None:
    with pytest.raises(MismatchError, match="newer"):
        CalibrationTable.from_bytes(TABLE.to_bytes().replace(b"calibration/1", b"calibration/2"))
    TABLE.check_weights("ab" * 32)
    with pytest.raises(MismatchError, match="other weights"):
        TABLE.check_weights("cd" * 32)
