"""What x is: points, images, spectrograms."""

from flowport.modality.base import Modality, Sound
from flowport.modality.image import FloatImage, Image
from flowport.modality.log_mel import LogMel
from flowport.modality.plane import Plane

__all__ = ["FloatImage", "Image", "LogMel", "Modality", "Plane", "Sound"]
