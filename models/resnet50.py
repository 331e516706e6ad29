"""ResNet-50 with seeded weights that were never trained, layer by layer as torchvision builds it.

Its data and its measure are those of models/resnet18.py, and mean as little.
"""

from typing import TYPE_CHECKING

from models.resnet18 import CLASSES, agreement, calibration, convolution, evaluation, seed

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["agreement", "build", "calibration", "evaluation"]

_WIDER = 4  # the last convolution of a block, relative to its other two
_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))


def build() -> "nn.Module":
    """Make the network: a stem, four stages of 3, 4, 6 and 3 bottleneck blocks, a classifier."""
    import torch
    from torch import nn

    class Bottleneck(nn.Module):
        """Three convolutions, the middle one narrow, and a way around them."""

        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            outputs = width * _WIDER
            self.path = nn.Sequential(
                *convolution(inputs, width, 1, 1),
                nn.ReLU(),
                *convolution(width, width, 3, stride),
                nn.ReLU(),
                *convolution(width, outputs, 1, 1),
            )
            same = inputs == outputs and stride == 1
            self.around = nn.Identity() if same else nn.Sequential(*convolution(inputs, outputs, 1, stride))

        def forward(self, features: "torch.Tensor") -> "torch.Tensor":
            return torch.relu(self.path(features) + self.around(features))

    blocks: list[nn.Module] = []
    inputs = 64
    for width, count, stride in _STAGES:
        blocks.append(Bottleneck(inputs, width, stride))
        inputs = width * _WIDER
        blocks += [Bottleneck(inputs, width, 1) for _ in range(count - 1)]
    stem = (*convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES))
    seed(model)
    return model
