"""ResNet-18 with seeded weights that were never trained: a real architecture to measure speed and agreement on.

Its labels mean nothing, so it is judged by how often an engine decides as PyTorch does. Accuracy needs a trained model:
see models/digits.py.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

Arrays: TypeAlias = "dict[str, NDArray[np.generic]]"

SEED = 18
CLASSES = 1000
SIZE = 224
IMAGES = 8
CALIBRATION_IMAGES = 32


def build() -> "nn.Module":
    """Make the network: a stem, four stages of two residual blocks, a classifier."""
    import torch
    from torch import nn

    class Residual(nn.Module):
        """Two convolutions, and a way around them."""

        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.path = nn.Sequential(
                *convolution(inputs, outputs, 3, stride), nn.ReLU(), *convolution(outputs, outputs, 3, 1)
            )
            same = inputs == outputs and stride == 1
            self.around = nn.Identity() if same else nn.Sequential(*convolution(inputs, outputs, 1, stride))

        def forward(self, features: "torch.Tensor") -> "torch.Tensor":
            return torch.relu(self.path(features) + self.around(features))

    stages = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    blocks = [block for i, o, stride in stages for block in (Residual(i, o, stride), Residual(o, o, 1))]
    stem = (*convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))
    model = nn.Sequential(*stem, *blocks, *head)
    seed(model)
    return model


def calibration() -> "Iterator[Arrays]":
    """Images of the same kind as those of `evaluation`, and none of them."""
    for index in range(CALIBRATION_IMAGES):
        yield {"image": _image(IMAGES + index)}


def evaluation() -> "Iterator[tuple[Arrays, Arrays]]":
    """Seeded images with synthetic labels: nobody knows what they show, and `agreement` does not ask."""
    import numpy as np

    for index in range(IMAGES):
        yield {"image": _image(index)}, {"label": np.array([index], np.int64)}


def agreement(outputs: "Arrays", targets: "Arrays", reference: "Arrays") -> float:  # noqa: ARG001 -- labels are synthetic
    """Share of images on which the engine's highest logit is that of PyTorch."""
    return float((outputs["logits"].argmax(axis=1) == reference["logits"].argmax(axis=1)).mean())


def convolution(inputs: int, outputs: int, size: int, stride: int) -> "tuple[nn.Module, nn.Module]":
    """Make a convolution and the normalisation behind it."""
    from torch import nn

    layer = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    return layer, nn.BatchNorm2d(outputs)


def seed(model: "nn.Module") -> None:
    """Fill all from one seed; running statistics lie about 0 and 1, as a trained network's do, not on them."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(SEED)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.05, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0, generator=generator)
            nn.init.normal_(module.bias, std=0.1, generator=generator)
            nn.init.normal_(module.get_buffer("running_mean"), std=0.1, generator=generator)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5, generator=generator)


def _image(index: int) -> "NDArray[np.float32]":
    """Make one picture: squares over a colour, under noise. To the network, pictures of noise alone all look alike."""
    import numpy as np

    random = np.random.RandomState([SEED, index])
    colour = 2 * random.standard_normal((1, 3, 1, 1))
    across = int(random.choice([2, 4, 7, 14, 28]))
    squares = (
        random.standard_normal((1, 3, across, across)).repeat(SIZE // across, axis=2).repeat(SIZE // across, axis=3)
    )
    noise = random.uniform(0, 0.5) * random.standard_normal((1, 3, SIZE, SIZE))
    return (colour + squares + noise).astype(np.float32)
