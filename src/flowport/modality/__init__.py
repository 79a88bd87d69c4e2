"""What x is: points, images."""

from flowport.modality.base import Modality
from flowport.modality.image import FloatImage, Image
from flowport.modality.plane import Plane

__all__ = ["FloatImage", "Image", "Modality", "Plane"]
