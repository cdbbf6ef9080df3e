"""What benchmarks/gpu.py measures on: models, clips, and what is right for them in float64."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from cuda_models import config_of, features_of, state_dict
from gpu_floor import Work, star_work, stgcn_work
from gpu_peers import HEADS, JOINTS, Peer, StGcn, edges_within

WIDTHS = {"star-64": 64, "star-128": 128}
ST_GCN = "st-gcn"
TWO_PERSONS = "1x300:2p"  # of one clip, in STAR's form: the second one's frames after the first one's
WORKLOADS = {
    "1x32": [32],
    "1x300": [300],
    "mix8": [32, 60, 90, 120, 150, 200, 250, 300],
    "64 clips": np.random.default_rng(0).integers(32, 301, 64).tolist(),
    TWO_PERSONS: [600],
}
CASES = (*((model, workload) for model in WIDTHS for workload in WORKLOADS), (ST_GCN, TWO_PERSONS))
TYPES = {"fp32": torch.float32, "fp16": torch.float16}


def star_config(model: str) -> SimpleNamespace:
    """Of the paper's five layers and 187 edges."""
    config = config_of(WIDTHS[model], HEADS, JOINTS, layers=5)
    config.edges = edges_within(3)
    return config


def work_of(model: str, workload: str, precision: str) -> Work:
    """What a model has to do at least."""
    lengths = WORKLOADS[workload]
    if model == ST_GCN:
        return stgcn_work(lengths[0] // 2, 2, precision)
    return star_work(star_config(model), lengths, precision)


def open_case(memory: str, model: str, workload: str) -> Case | StGcnCase:
    """One of ``CASES`` in the memory of a device."""
    return StGcnCase(memory) if model == ST_GCN else Case(memory, model, workload)


class Case:
    """STAR and a batch.

    Attributes:
        expected: logits in float64, clip by clip and by the form that is nothing like ours.
        ranges: amax of each linear layer's input on these clips, but of the embedding's, as an INT8 model takes them.
    """

    def __init__(self, memory: str, model: str, workload: str) -> None:
        self.memory, self.lengths, self.config = memory, WORKLOADS[workload], star_config(model)
        # what fp16 has, too: rounding the weights alone brings logits of this model, which are small, past fp16's tolerance
        self.state = {name: value.astype(np.float16).astype(np.float64) for name, value in state_dict(self.config).items()}
        self.features = features_of(sum(self.lengths), JOINTS)
        self.ranges: dict[str, float] = {}
        with torch.no_grad():
            clips = np.split(self.features, np.cumsum(self.lengths)[:-1])
            self.expected = torch.cat([self._expected(clip) for clip in clips])

    def _expected(self, clip: np.ndarray) -> torch.Tensor:
        peer = self._peer("scatter", torch.float64, [len(clip)])
        peer.amax = {}
        logits: torch.Tensor = peer(self._placed(torch.float64, clip))
        for path, amax in peer.amax.items():
            if path != "embedding":
                self.ranges[f"{path}.in"] = max(amax, self.ranges.get(f"{path}.in", 0.0))
        return logits

    def _peer(self, form: str, kind: torch.dtype, lengths: list[int]) -> Peer:
        state = {name: torch.from_numpy(value).to(kind) for name, value in self.state.items()}
        return Peer(state, self.config.edges, lengths, form, self.config.layers).to(self.memory).eval()

    def _placed(self, kind: torch.dtype, features: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(features).to(self.memory, kind)

    def peer(self, form: str, precision: str) -> tuple[Peer, torch.Tensor]:
        """STAR in PyTorch, and its input."""
        kind = TYPES[precision]
        return self._peer(form, kind, self.lengths), self._placed(kind, self.features)


class StGcnCase:
    """ST-GCN on the coordinates of the clip of two persons."""

    def __init__(self, memory: str) -> None:
        frames = WORKLOADS[TWO_PERSONS][0] // 2
        coordinates = features_of(2 * frames, JOINTS)[..., :3].reshape(2, frames, JOINTS, 3)
        self.features = torch.from_numpy(coordinates).permute(3, 1, 2, 0)[None].to(memory)
        torch.manual_seed(0)
        self._model = stgcn_with_weights().to(memory)
        with torch.no_grad():
            self.expected = self._model.double()(self.features.double())

    def peer(self, precision: str) -> tuple[StGcn, torch.Tensor]:
        """The model in a precision, and its input."""
        kind = TYPES[precision]
        model = StGcn().to(self.features.device, kind)
        model.load_state_dict(self._model.state_dict())
        return model.eval(), self.features.to(kind)


def stgcn_with_weights() -> StGcn:
    """Random weights that keep the size of activations, so that logits depend on the clip and not on biases alone."""
    model = StGcn().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return model
