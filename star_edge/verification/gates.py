"""The arithmetic of the accuracy gates: whole clips, so that no rounding decides."""

from __future__ import annotations

import math
from dataclasses import dataclass

MIN_BUCKET = 100  # clips: below, one flip is more than the one percent a gate speaks about
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Gate:
    """What a precision may cost, in thousandths of the clips.

    Attributes:
        losses: net losses, clips that only the reference has right minus clips that only the engine has right.
        disagreements: clips on which engine and reference name different classes, right or wrong.
    """

    losses: int
    disagreements: int

    def allowed_losses(self, samples: int) -> int:
        """max(1, floor(share of ``samples``)): on a small set one clip is not a gate missed."""
        return max(1, samples * self.losses // 1000)

    def allowed_disagreements(self, samples: int) -> int:
        """The same rule for disagreements."""
        return max(1, samples * self.disagreements // 1000)

    def holds(self, samples: int, lost: int, gained: int, agreed: int) -> bool:
        """Whether counts over ``samples`` clips (at least one) stay within the gate."""
        if samples < 1:
            return False
        return lost - gained <= self.allowed_losses(samples) and samples - agreed <= self.allowed_disagreements(samples)


# 99.9 % of the reference's accuracy and 99.5 % agreement; for int8 99 % and 98 %
_FLOAT = Gate(losses=1, disagreements=5)
GATES: dict[str, Gate] = {"fp32": _FLOAT, "fp16": _FLOAT, "bf16": _FLOAT, "int8": Gate(losses=10, disagreements=20)}


def wilson_interval(successes: int, samples: int, z: float = _Z95) -> tuple[float, float]:
    """Wilson score interval (95 % by default) of a share; (0, 1) without samples.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if samples == 0:
        return 0.0, 1.0
    share, weight = successes / samples, z * z / samples
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / samples + weight / (4 * samples))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))  # rounding must not leave the share out
