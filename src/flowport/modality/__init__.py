"""Modalities: encodings of raw data (points, images, sound, clouds) as points x and their inverses."""

from flowport.modality.base import Modality, Sound, Vertices
from flowport.modality.cloud import Cloud
from flowport.modality.image import FloatImage, Image
from flowport.modality.latent import LatentModality
from flowport.modality.log_mel import LogMel
from flowport.modality.pixel_cloud import PixelCloud
from flowport.modality.plane import Plane
from flowport.modality.spectrogram import Spectrogram
from flowport.modality.stft import ComplexSTFT

__all__ = [
    "Cloud",
    "ComplexSTFT",
    "FloatImage",
    "Image",
    "LatentModality",
    "LogMel",
    "Modality",
    "PixelCloud",
    "Plane",
    "Sound",
    "Spectrogram",
    "Vertices",
]
