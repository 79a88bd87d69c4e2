"""Classifiers whose features and logits are used by metrics, costs and rewards."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from flowport.errors import FlowportError
from flowport.types import EventShape


class Classifier(nn.Module, ABC):
    """A classifier that maps points to 64 features and, by a linear layer, to logits.

    A member provides ``features``; the last layer and the logits are defined here.

    To add a member: subclass this class in this module, export it in ``__init__.py`` and enter it in ``CLASSIFIERS`` of
    ``flowport.evaluation.classifier_training`` under the number of dimensions of its event shape.

    Args:
        classes: Number of classes.

    Attributes:
        width_of_features: Number of features.

    Raises:
        FlowportError: For fewer than two classes.
    """

    width_of_features = 64

    def __init__(self, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise FlowportError(f"a classifier needs at least two classes, not {classes}")
        self.classes = classes
        self.head = nn.Linear(self.width_of_features, classes)

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Features of the points, (B, 64).

        Args:
            x: Points, (B, *D).
        """

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes, (B, classes).

        Args:
            x: Points, (B, *D).
        """
        return self.head(self.features(x))


class ImageClassifier(Classifier):
    """Convolutional classifier of images: two stages of 3x3 convolution, batch norm and pooling, then 64 features.

    The stages have width and 2·width channels; the last is pooled to 4 x 4, so images of any size from 4 x 4 are
    accepted.

    Args:
        event_shape: Shape (C, H, W) of one image.
        classes: Number of classes.
        width: Number of channels of the first stage.

    Raises:
        FlowportError: For points that are not images of at least 4 x 4, and for fewer than two classes.

    References:
        LeCun et al. 1998, "Gradient-based learning applied to document recognition", doi:10.1109/5.726791.
        Ioffe and Szegedy 2015, "Batch normalization: accelerating deep network training by reducing internal covariate
        shift", arXiv:1502.03167.
    """

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
    """Multilayer perceptron that classifies points (d,): ``width`` SELU units, then 64 SELU features.

    Args:
        event_shape: Shape (d,) of one point.
        classes: Number of classes.
        width: Width of the first hidden layer.

    Raises:
        FlowportError: For points that are not vectors, and for fewer than two classes.

    References:
        Klambauer et al. 2017, "Self-normalizing neural networks", arXiv:1706.02515.
    """

    def __init__(self, event_shape: EventShape, classes: int, width: int = 64) -> None:
        super().__init__(classes)
        if len(event_shape) != 1:
            raise FlowportError(f"the point classifier needs points (d,), not points of shape {event_shape}")
        self.body = nn.Sequential(
            nn.Linear(event_shape[0], width), nn.SELU(), nn.Linear(width, self.width_of_features), nn.SELU()
        )

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)
