"""How fast a board could run a model at best, from the rates that are known of it: a prediction, never a measurement.

Arithmetic. Multiply-accumulates are those of :mod:`star_edge.bench.macs`. Products with weights run on the tensor cores at their
dense rate in fp16 and int8; attention, its sums and the gate, which are float32 islands, run on the CUDA cores in every
precision; in fp32 everything does. int8 means an fp16 remainder: embedding and context keep fp16.

Memory. Each product and each ``Star*`` op is one kernel that reads its inputs from memory and writes its outputs there;
normalisation, activation, residual, addition of the branches and quantisation happen in the kernel before or after at no cost. With
V joints, width d and B bytes an element, a row costs 4 V C for its features and, per branch of a layer, in units of V d B:
1 read and 3 written by QKV, 4 read (residual) and 1 written by attention, 1 read and 1 written by the first linear layer, 2
read (residual) and 1 written by the second; 1 more per layer for the other branch's sum, 1 by the embedding, 2 read by the context
attention. In int8 the inputs of quantised products take one byte, and what a residual needs, too, is written in both. Weights are
read once. Caches between kernels are taken for none, which is pessimistic for short clips.

``predicted_ms`` is the larger of both times. ``floor_ms`` takes all but features, weights and logits to stay on the chip: what no
fusion can beat at these rates. Launches, the copies to the device and the CPU are in neither: short clips take longer. A mode
whose bandwidth is not known is given the board's highest, and its prediction is marked as not confirmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from boards import Board, Fact
from boards.facts import CONFIDENCE, Confidence
from runtime.bundle import Bundle
from runtime.errors import MismatchError
from star_edge import __version__
from star_edge.bench.macs import head_macs, linear_macs, macs
from star_edge.bench.workloads import parse_workload
from star_edge.models.config import StarConfig

SCHEMA = "star-edge/prediction/1"
STATEMENT = "a prediction from published rates, not a measurement: no figure here was measured on any board"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
Precision = Literal["fp32", "fp16", "int8"]


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One board, power mode, precision and workload.

    Attributes:
        mode: power mode as nvpmodel names it; None: the highest clock known, where no mode's clock is.
        macs, bytes: multiply-accumulates, and what is moved between kernels and memory.
        arithmetic_ms, memory_ms: time of each alone. predicted_ms: the larger. bound: which it is.
        floor_ms: the same with everything kept on the chip that could be.
        confidence: of the least sure fact that went in, see :mod:`boards`.
    """

    board: str
    mode: str | None
    precision: Precision
    workload: str
    macs: int
    bytes: int
    arithmetic_ms: float
    memory_ms: float
    predicted_ms: float
    bound: Literal["arithmetic", "memory"]
    floor_ms: float
    confidence: Confidence


class Unknown(msgspec.Struct, frozen=True):
    """A power mode that nothing is predicted for, and why."""

    board: str
    mode: str
    reason: str


class PredictionReport(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``star-edge boards predict --json``; ``statement`` says what these numbers are not."""

    statement: str = STATEMENT
    star_edge_version: str = __version__
    bundle: str
    bundle_id: str
    predictions: tuple[Prediction, ...]
    unknown: tuple[Unknown, ...]
    schema: str = SCHEMA


class Work(NamedTuple):
    """What a workload asks of a board in one precision: MACs by the unit and precision that does them, and bytes."""

    core_macs: int
    fp16_macs: int
    int8_macs: int
    bytes: int
    least_bytes: int


class State(NamedTuple):
    """A board in a power mode: clocks of all SMs together per second, bytes per second, and the facts these rest on."""

    mode: str | None
    sm_clocks: float
    bandwidth: float
    facts: tuple[Fact, ...]


def predict(bundle: Bundle, boards: Sequence[Board], workloads: Sequence[str]) -> PredictionReport:
    """Predictions for every board, power mode with a known clock, workload and precision.

    Raises InputError (unknown workload), MismatchError (a model other than STAR).
    """
    config = _config(bundle)
    chosen = [parse_workload(name) for name in workloads]
    predictions: list[Prediction] = []
    unknown: list[Unknown] = []
    for board in boards:
        states, without = board_states(board)
        unknown += without
        for state in states:
            for workload in chosen:
                for precision in PRECISIONS:
                    work = count_work(config, workload.rows, precision)
                    predictions.append(_predict(board, state, precision, workload.name, work))
    return PredictionReport(
        bundle=str(bundle.path),
        bundle_id=bundle.manifest.bundle_id,
        predictions=tuple(predictions),
        unknown=tuple(unknown),
    )


def board_states(board: Board) -> tuple[list[State], list[Unknown]]:
    """The power modes whose clock is known, and those whose is not."""
    known, facts = [], board.facts
    unknown = []
    for name, mode in board.modes.items():
        bandwidth = mode.memory_gb_per_s or _unconfirmed(facts.memory_gb_per_s)
        if mode.gpu_mhz is not None:
            sms = mode.sms or facts.sms
            rate = sms.value * mode.gpu_mhz.value * 1e6
            known.append(State(name, rate, bandwidth.value * 1e9, (sms, mode.gpu_mhz, bandwidth)))
        elif mode.gpu_int8_sparse_tops is not None:
            rate = mode.gpu_int8_sparse_tops.value * 1e12 / (2 * facts.int8_op_per_sm_clock.value)  # sparse is twice dense
            known.append(
                State(name, rate, bandwidth.value * 1e9, (mode.gpu_int8_sparse_tops, facts.int8_op_per_sm_clock, bandwidth))
            )
        else:
            unknown.append(Unknown(board.name, name, "its GPU clock is not known"))
    if not known:
        rate = facts.sms.value * facts.gpu_mhz.value * 1e6
        used = (facts.sms, facts.gpu_mhz, facts.memory_gb_per_s)
        known.append(State(None, rate, facts.memory_gb_per_s.value * 1e9, used))
    return known, unknown


def _unconfirmed(bandwidth: Fact[float]) -> Fact[float]:
    """The highest bandwidth, for a mode that may have less: how sure it is falls to the last."""
    return msgspec.structs.replace(bandwidth, confidence="U")


def count_work(config: StarConfig, rows: Sequence[int], precision: Precision) -> Work:
    """MACs and bytes of clips with the given rows, see the module's text."""
    total, clips = sum(rows), len(rows)
    all_macs = macs(config, rows)
    features = total * config.joints * config.channels * 4
    width = {"fp32": 4, "fp16": 2, "int8": 2}[precision]
    quantised = 1 if precision == "int8" else width
    least = features + _weight_bytes(config, width, quantised) + clips * config.classes * 4
    moved = least + total * config.joints * config.dim * _bytes_per_element(config.layers, width, quantised)
    if precision == "fp32":
        return Work(all_macs, 0, 0, moved, least)
    products = total * linear_macs(config) + clips * head_macs(config)
    fp16 = products if precision == "fp16" else _unquantised_macs(config, total, clips)
    return Work(all_macs - products, fp16, products - fp16, moved, least)


def _bytes_per_element(layers: int, width: int, quantised: int) -> int:
    """Bytes moved for one row, joint and channel of width d, over all layers."""
    copy = quantised if quantised != width else 0
    reads = 3 * quantised + 5 * width
    writes = 5 * width + quantised + copy
    return layers * (2 * (reads + writes) + width + copy) + 3 * width


def _weight_bytes(config: StarConfig, width: int, quantised: int) -> int:
    """Matrices alone; biases and normalisations are a hundredth of them."""
    dim = config.dim
    inside = linear_macs(config) // config.joints - config.channels * dim + head_macs(config) - config.joints * dim * dim
    return quantised * inside + width * (config.channels * dim + dim * dim)


def _unquantised_macs(config: StarConfig, rows: int, clips: int) -> int:
    """Products that stay fp16 in int8: the embedding, and the context's."""
    return config.joints * config.dim * (rows * config.channels + clips * config.dim)


def _predict(board: Board, state: State, precision: Precision, workload: str, work: Work) -> Prediction:
    facts = board.facts
    cores = state.sm_clocks * facts.cores_per_sm.value
    fp16 = state.sm_clocks * facts.fp16_flop_per_sm_clock.value / 2
    int8 = state.sm_clocks * facts.int8_op_per_sm_clock.value / 2
    arithmetic = (work.core_macs / cores + work.fp16_macs / fp16 + work.int8_macs / int8) * 1e3
    memory = work.bytes / state.bandwidth * 1e3
    used = [*state.facts, facts.cores_per_sm]
    used += [facts.fp16_flop_per_sm_clock] if work.fp16_macs else []
    used += [facts.int8_op_per_sm_clock] if work.int8_macs else []
    return Prediction(
        board=board.name,
        mode=state.mode,
        precision=precision,
        workload=workload,
        macs=work.core_macs + work.fp16_macs + work.int8_macs,
        bytes=work.bytes,
        arithmetic_ms=arithmetic,
        memory_ms=memory,
        predicted_ms=max(arithmetic, memory),
        bound="arithmetic" if arithmetic > memory else "memory",
        floor_ms=max(arithmetic, work.least_bytes / state.bandwidth * 1e3),
        confidence=max((fact.confidence for fact in used), key=CONFIDENCE.index),
    )


def _config(bundle: Bundle) -> StarConfig:
    try:
        config = msgspec.convert(bundle.manifest.model.config, StarConfig)
        if config.experts == 1:
            return config
        found = f"an ensemble of {config.experts}"
    except msgspec.ValidationError as error:
        found = str(error)
    raise MismatchError(
        f"what the model '{bundle.manifest.model.name}' computes is not known",
        where=bundle.path,
        found=found,
        expected="a STAR model",
        hint="star-edge bench measures it",
    )
