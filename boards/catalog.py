"""``NAME.toml`` of each board, typed."""

from __future__ import annotations

import difflib
import re
from functools import cache
from typing import Literal

import msgspec

from boards.facts import FOLDER, Fact, read_toml
from boards.jetpack import TABLE, check_supported, refused_families
from runtime.errors import InputError, MismatchError

_JETPACK = re.compile(r"(?:jetpack|jp)(\d[\d.]*)")


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a module; None is unknown.

    Attributes:
        arch: compute capability as nvcc names it. module_ids: as the device tree names the module.
        sms, cores_per_sm: streaming multiprocessors, and float32 FMAs a clock of each.
        fp16_flop_per_sm_clock, int8_op_per_sm_clock: dense rate of the tensor cores, a multiply-accumulate counting as two.
        gpu_mhz: highest clock in any mode. memory_gb_per_s: highest bandwidth in any mode.
        headline_tops: what the maker advertises: sparse, DLA included.
        default_mode: power mode after flashing, as nvpmodel names it.
    """

    arch: Fact[str]
    module_ids: Fact[tuple[str, ...]] | None = None
    sms: Fact[int]
    cores_per_sm: Fact[int]
    fp16_flop_per_sm_clock: Fact[int]
    int8_op_per_sm_clock: Fact[int]
    gpu_mhz: Fact[int]
    memory_gb: Fact[int]
    memory_gb_per_s: Fact[float]
    l2_mb: Fact[float] | None = None
    headline_tops: Fact[float] | None = None
    dla_cores: Fact[int] | None = None
    default_mode: Fact[str] | None = None


class Mode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a power mode; None is unknown.

    Attributes:
        id: number by which nvpmodel sets it; it differs between boards and configurations, the name is what to go by.
        gpu_mhz: cap of the GPU's clock. sms: SMs left on; all where None and the clock is known.
        memory_gb_per_s: bandwidth in this mode.
        gpu_int8_sparse_tops: the maker's figure for the GPU alone, which stands for SMs times clock where those are unknown.
    """

    id: Fact[int] | None = None
    gpu_mhz: Fact[int] | None = None
    sms: Fact[int] | None = None
    memory_gb_per_s: Fact[float] | None = None
    gpu_int8_sparse_tops: Fact[float] | None = None


class Board(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A board: its names, facts, and power modes by the names that ``nvpmodel -q`` prints."""

    schema: Literal["star-edge/board/1"]
    name: str
    title: str
    family: Literal["orin", "thor"]
    aliases: tuple[str, ...] = ()
    facts: Facts
    modes: dict[str, Mode] = {}

    @property
    def sm(self) -> int:
        """``sm_87`` -> 87, as engines are named by."""
        return int(self.facts.arch.value.removeprefix("sm_"))


def names() -> tuple[str, ...]:
    """The boards by the names that :func:`load` takes, smaller ones of a family first."""
    return tuple(board.name for board in _boards())


def load(name: str) -> Board:
    """The board of a name or alias; case, spaces and underscores do not matter, nor does ``jetson-`` in front.

    Raises:
        MismatchError: a board or JetPack release that is refused, with the reason.
        InputError: no such board; names all, and the closest.
    """
    wanted = _plain(name)
    known = {_plain(alias): board for board in _boards() for alias in (board.name, *board.aliases)}
    if wanted in known:
        return known[wanted]
    _refuse(name, wanted)
    close = difflib.get_close_matches(wanted, known, n=3)
    close += [key for key in known if wanted and key.startswith(wanted) and key not in close]
    raise InputError(
        f"no board '{name}'",
        found=name,
        expected=f"one of {', '.join(names())}",
        hint=f"did you mean {' or '.join(dict.fromkeys(known[key].name for key in close))}?" if close else "star-edge boards",
    )


def _refuse(name: str, wanted: str) -> None:
    """Raise MismatchError where the name means something that star-edge does not run on."""
    for family, refused in refused_families().items():
        if family in wanted:
            raise MismatchError(
                f"star-edge does not run on '{name}'",
                where=TABLE,
                found=f"{family.capitalize()}, {refused.arch.value}: {refused.reason}",
                expected=f"one of {', '.join(names())}",
                hint="star-edge boards",
            )
    release = _JETPACK.fullmatch(wanted.replace("-", ""))
    if release:
        check_supported(release[1])


@cache
def _boards() -> tuple[Board, ...]:
    boards = [read_toml(path, Board) for path in FOLDER.glob("*.toml") if path != TABLE]
    return tuple(sorted(boards, key=_size))


def _size(board: Board) -> tuple[str, float, int, int]:
    facts = board.facts
    return board.family, facts.memory_gb_per_s.value, facts.memory_gb.value, facts.gpu_mhz.value


def _plain(name: str) -> str:
    """``Jetson Orin_Nano 8GB`` -> ``orin-nano-8gb``."""
    return re.sub(r"[\s_-]+", "-", name.strip().lower()).removeprefix("nvidia-").removeprefix("jetson-")
