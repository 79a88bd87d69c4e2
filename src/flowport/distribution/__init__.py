"""Distributions of source and target points: analytic ones, the user's files, data sets of installed packages."""

from flowport.distribution.base import AnalyticDistribution, Density, Distribution, Stored
from flowport.distribution.checkerboard import Checkerboard
from flowport.distribution.cloud_files import CloudFiles
from flowport.distribution.digits import Digits
from flowport.distribution.files import Files
from flowport.distribution.gaussian import Gaussian
from flowport.distribution.glyphs import Glyphs
from flowport.distribution.hugging_face import HuggingFace
from flowport.distribution.instrument import Brass, Flute, Instrument
from flowport.distribution.knot import Knot
from flowport.distribution.mixture import EightGaussians, GaussianComponents, Mixture
from flowport.distribution.mnist import MNIST
from flowport.distribution.moons import Moons
from flowport.distribution.notes import Notes
from flowport.distribution.picture_files import PictureFiles
from flowport.distribution.s_curve import SCurve
from flowport.distribution.silhouettes import Silhouettes
from flowport.distribution.solid_views import SolidViews
from flowport.distribution.solids import Box, Capsule, Ellipsoid, Sphere, Torus
from flowport.distribution.sound_files import SoundFiles
from flowport.distribution.spoken import Spoken
from flowport.distribution.superquadric import Superquadric
from flowport.distribution.tensor import TensorFile
from flowport.distribution.user_folders import AudioFolder, CloudFolder, ImageFolder

__all__ = [
    "MNIST",
    "AnalyticDistribution",
    "AudioFolder",
    "Box",
    "Brass",
    "Capsule",
    "Checkerboard",
    "CloudFiles",
    "CloudFolder",
    "Density",
    "Digits",
    "Distribution",
    "EightGaussians",
    "Ellipsoid",
    "Files",
    "Flute",
    "Gaussian",
    "GaussianComponents",
    "Glyphs",
    "HuggingFace",
    "ImageFolder",
    "Instrument",
    "Knot",
    "Mixture",
    "Moons",
    "Notes",
    "PictureFiles",
    "SCurve",
    "Silhouettes",
    "SolidViews",
    "SoundFiles",
    "Sphere",
    "Spoken",
    "Stored",
    "Superquadric",
    "TensorFile",
    "Torus",
]
