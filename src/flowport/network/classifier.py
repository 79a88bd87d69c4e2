"""Classifiers, whose features and logits metrics, costs and rewards read."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from flowport.errors import FlowportError
from flowport.types import EventShape


class Classifier(nn.Module, ABC):
    """x (B, *D) -> features (B, 64) -> logits (B, classes)."""

    width_of_features = 64

    def __init__(self, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise FlowportError(f"a classifier needs at least two classes, not {classes}")
        self.classes = classes
        self.head = nn.Linear(self.width_of_features, classes)

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """(B, *D) -> (B, 64)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, *D) -> logits (B, classes)."""
        return self.head(self.features(x))


class ImageClassifier(Classifier):
    """Two stages of 3x3 convolutions (width, 2·width channels), pooled to 4x4, then 64 features; images from 4x4 up."""

    def __init__(self, event_shape: EventShape, classes: int, width: int = 24) -> None:
        super().__init__(classes)
        if len(event_shape) != 3 or min(event_shape[1:]) < 4:
            raise FlowportError(
                f"the image classifier needs images (C, H, W) of at least 4 x 4, not points of {event_shape}"
            )
        self.body = nn.Sequential(
            nn.Conv2d(event_shape[0], width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * width, self.width_of_features),
            nn.ReLU(),
        )

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)


class PointClassifier(Classifier):
    """Two hidden layers for points (d,): width SELU units, then 64 features."""

    def __init__(self, event_shape: EventShape, classes: int, width: int = 64) -> None:
        super().__init__(classes)
        if len(event_shape) != 1:
            raise FlowportError(f"the point classifier needs points (d,), not points of shape {event_shape}")
        self.body = nn.Sequential(
            nn.Linear(event_shape[0], width), nn.SELU(), nn.Linear(width, self.width_of_features), nn.SELU()
        )

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)
