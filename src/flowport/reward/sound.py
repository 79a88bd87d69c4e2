"""Rewards of sound, read off its spectrogram."""

from typing import final

from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.errors import Refusal
from flowport.modality import Spectrogram
from flowport.reward.base import Reward
from flowport.shapes import Condition


@final
class SpectralCentroid(Reward):
    """r = log₂(Σ f P / Σ P / 440 Hz), octaves above 440 Hz: how bright a sound is; P is the power of a spectrogram's
    bin, f its frequency, the sums over bins and frames, so that what is loud counts.

    Mel triangles share a tone between two peaks by its frequency, so that the centroid of a pure tone is its frequency.
    (Grey & Gordon 1978.) modality: of the points; null: that of the target. Raises Refusal for anything but sound.
    """

    def __init__(self, modality: Spectrogram | None = None) -> None:
        super().__init__()
        self.modality = modality

    def check(self, source: Distribution, target: Distribution) -> None:
        if not isinstance(target.modality, Spectrogram):
            raise Refusal(
                f"reward={self.called} is for sound as a spectrogram, but the target is "
                f"{type(target.modality).__name__}"
            )
        self.modality = self.modality or target.modality

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        if self.modality is None:
            raise Refusal(f"reward={self.called} does not know its modality: give reward.modality, or ask check first")
        energy = self.modality.energy(x1).sum(2)
        centroid = energy @ self.modality.hertz().to(energy) / energy.sum(1)
        return (centroid / 440).log2()
