"""Rewards of sound, from its spectrogram."""

from typing import final

from torch import Tensor

from flowport.modality import Spectrogram
from flowport.reward.base import ModalityReward
from flowport.types import Condition


@final
class SpectralCentroid(ModalityReward[Spectrogram]):
    """Spectral centroid r = log₂((Σ f P / Σ P) / 440 Hz), in octaves above 440 Hz: the brightness of a sound.

    P is the power of a bin of the spectrogram and f its frequency; the sums are over bins and frames, so that loud
    frames have more weight. A mel filter bank of triangles distributes a tone between two peaks according to its
    frequency, so the centroid of a pure tone is its frequency.

    Args:
        modality: Modality of the points; None for that of the target.

    References:
        Grey and Gordon 1978, "Perceptual effects of spectral modifications on musical timbres", doi:10.1121/1.381843.
    """

    kind, meant = Spectrogram, "sound as a spectrogram"

    def __init__(self, modality: Spectrogram | None = None) -> None:
        super().__init__(modality)

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        energy = self.known.energy(x1).sum(2)
        centroid = energy @ self.known.hertz().to(energy) / energy.sum(1)
        return (centroid / 440).log2()
