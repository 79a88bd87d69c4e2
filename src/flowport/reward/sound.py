"""Rewards of sound, read off its spectrogram."""

from typing import final

from torch import Tensor

from flowport.modality import Spectrogram
from flowport.reward.base import ModalityReward
from flowport.types import Condition


@final
class SpectralCentroid(ModalityReward[Spectrogram]):
    """r = log₂(Σ f P / Σ P / 440 Hz), octaves above 440 Hz: how bright a sound is; P is the power of a spectrogram's
    bin, f its frequency, the sums over bins and frames, so that what is loud counts.

    Mel triangles share a tone between two peaks by its frequency, so that the centroid of a pure tone is its frequency.
    (Grey & Gordon 1978.) modality: of the points; null: that of the target. Raises FlowportError for anything but
    sound.
    """

    kind, meant = Spectrogram, "sound as a spectrogram"

    def __init__(self, modality: Spectrogram | None = None) -> None:
        super().__init__(modality)

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        energy = self.known.energy(x1).sum(2)
        centroid = energy @ self.known.hertz().to(energy) / energy.sum(1)
        return (centroid / 440).log2()
