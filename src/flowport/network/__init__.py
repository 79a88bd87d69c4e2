"""Neural networks f(x, t, condition) that parametrise a flow, and classifiers for metrics, costs and rewards."""

from flowport.network.adm_unet import ADMUNet, from_torchcfm
from flowport.network.base import Network
from flowport.network.classifier import Classifier, ImageClassifier, PointClassifier
from flowport.network.dit import DiT
from flowport.network.mlp import MLP
from flowport.network.patch_unet import PatchUNet
from flowport.network.set_transformer import SetTransformer
from flowport.network.unet import UNet

__all__ = [
    "MLP",
    "ADMUNet",
    "Classifier",
    "DiT",
    "ImageClassifier",
    "Network",
    "PatchUNet",
    "PointClassifier",
    "SetTransformer",
    "UNet",
    "from_torchcfm",
]
