"""Six small networks with seeded weights, and pictures and sequences for them. Only the last layers are fitted.

Copied as nets.py into a project's folder, as a user's own module would lie there: imports nothing of trtflow.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

Arrays: TypeAlias = "dict[str, NDArray[np.generic]]"

SEED = 6
CLASSES = 10
SAMPLES, BATCH = 64, 8
# Seeds of samples: those that a network is judged on are none of those that it was fitted to or calibrated with.
FITTING, CALIBRATION, EVALUATION = 0, 1, 2
FITTED_SAMPLES = 640


def build_cnn() -> "nn.Module":
    """Convolutions, pooling and a classifier of 8 x 8 pictures."""
    from torch import nn

    head = nn.Linear(64, CLASSES)
    model = _seeded(
        nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(32 * 4 * 4, 64), nn.ReLU(), head),
        )
    )
    return _fitted(model, head, (1, 8, 8))


def build_residual() -> "nn.Module":
    """Three residual blocks with normalisation, and a mean over all places."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.path = nn.Sequential(
                *_normalised(inputs, outputs, 3, stride), nn.ReLU(), *_normalised(outputs, outputs)
            )
            same = inputs == outputs and stride == 1
            self.around = nn.Identity() if same else nn.Sequential(*_normalised(inputs, outputs, 1, stride))

        def forward(self, features: "torch.Tensor") -> "torch.Tensor":
            return torch.relu(self.path(features) + self.around(features))

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(*_normalised(3, 16), nn.ReLU())
            self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
            self.head = nn.Linear(64, CLASSES)

        def forward(self, image: "torch.Tensor") -> "torch.Tensor":
            features: torch.Tensor = self.blocks(self.stem(image))
            logits: torch.Tensor = self.head(features.mean((2, 3)))
            return logits

    model = Residual()
    return _fitted(_seeded(model), model.head, (3, 32, 32))


def build_unet() -> "nn.Module":
    """Two steps down, two transposed convolutions up, each joined with what came down at its size."""
    import torch
    from torch import nn

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(*_normalised(1, 16), nn.ReLU())
            self.second = nn.Sequential(*_normalised(16, 32, 3, 2), nn.ReLU())
            self.bottom = nn.Sequential(*_normalised(32, 64, 3, 2), nn.ReLU())
            self.up = nn.ModuleList([nn.ConvTranspose2d(64, 32, 2, stride=2), nn.ConvTranspose2d(32, 16, 2, stride=2)])
            self.join = nn.ModuleList(
                [nn.Sequential(*_normalised(64, 32), nn.ReLU()), nn.Sequential(*_normalised(32, 16), nn.ReLU())]
            )
            self.head = nn.Conv2d(16, 1, 1)

        def forward(self, image: "torch.Tensor") -> "torch.Tensor":
            first = self.first(image)
            second = self.second(first)
            features = self.bottom(second)
            for up, join, skipped in zip(self.up, self.join, (second, first), strict=True):
                features = join(torch.cat((up(features), skipped), 1))
            mask: torch.Tensor = self.head(features)
            return mask

    return _seeded(UNet())


def build_lstm() -> "nn.Module":
    """A recurrent network that classifies a sequence by its last state."""
    import torch
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(16, 64, batch_first=True)
            self.head = nn.Linear(64, CLASSES)

        def forward(self, sequence: "torch.Tensor") -> "torch.Tensor":
            states, _ = self.lstm(sequence)
            logits: torch.Tensor = self.head(states[:, -1])
            return logits

    model = Recurrent()
    return _fitted(_seeded(model), model.head, (12, 16))


def build_vit() -> "nn.Module":
    """The vision transformer of transformers, at its smallest, and a classifier of its first token."""
    import torch
    from torch import nn
    from transformers import ViTConfig, ViTModel

    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = ViTConfig(image_size=32, patch_size=8, **size)
            self.vit = ViTModel(config, add_pooling_layer=False)
            self.head = nn.Linear(64, CLASSES)

        def forward(self, image: "torch.Tensor") -> "torch.Tensor":
            logits: torch.Tensor = self.head(self.vit(pixel_values=image).last_hidden_state[:, 0])
            return logits

    model = Transformer()
    return _fitted(_seeded(model), model.head, (3, 32, 32))


def build_superres() -> "nn.Module":
    """Twice the picture's size: a resized copy, and details from channels that become pixels."""
    import torch
    from torch import nn

    class SuperResolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(
                *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU()), *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
            )
            self.details = nn.Sequential(nn.Conv2d(32, 4, 3, padding=1), nn.PixelShuffle(2))

        def forward(self, image: "torch.Tensor") -> "torch.Tensor":
            larger = nn.functional.interpolate(image, scale_factor=2.0, mode="bilinear", align_corners=False)
            enlarged: torch.Tensor = larger + self.details(self.features(image))
            return enlarged

    return _seeded(SuperResolution())


def _normalised(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> "tuple[nn.Module, nn.Module]":
    from torch import nn

    convolution = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs)


def _seeded(model: "nn.Module") -> "nn.Module":
    """Fill all from one seed, so that every layer passes on as much as it gets; statistics lie about 0 and 1."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(SEED)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0, generator=generator)
            nn.init.normal_(module.bias, std=0.1, generator=generator)
            nn.init.normal_(module.get_buffer("running_mean"), std=0.1, generator=generator)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5, generator=generator)
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() > 1 and name != "position_embeddings":
                nn.init.kaiming_normal_(parameter, generator=generator)
            elif not isinstance(module, nn.LayerNorm):
                nn.init.normal_(parameter, std=0.1, generator=generator)
    return model.eval()


def _fitted(model: "nn.Module", head: "nn.Linear", shape: tuple[int, ...]) -> "nn.Module":
    """Solve for the last layer, so that the classes lie as far apart as those of a trained network."""
    import numpy as np
    import torch

    seen: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].double()))
    with torch.inference_mode():
        model(torch.from_numpy(np.concatenate(list(samples(shape, FITTING, FITTED_SAMPLES)))))
    hook.remove()
    (features,) = (each.clone() for each in seen)  # a tensor of inference mode takes no part in what follows
    wanted = torch.eye(CLASSES, dtype=torch.float64)[torch.arange(FITTED_SAMPLES) % CLASSES]
    mean = features.mean(0)
    centred = features - mean
    ridge = 1e-2 * centred.square().sum(0).mean() * torch.eye(len(mean), dtype=torch.float64)
    weight = torch.linalg.solve(centred.T @ centred + ridge, centred.T @ wanted).T
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(wanted.mean(0) - weight @ mean)
    return model


def samples(shape: tuple[int, ...], kind: int, count: int = SAMPLES) -> "Iterator[NDArray[np.float32]]":
    """Batches of pictures [channels, size, size] or sequences [steps, features]: of each class in turn."""
    import numpy as np

    make = _picture if len(shape) == 3 else _sequence
    for begin in range(0, count, BATCH):
        made = [
            make(shape, np.random.RandomState([SEED, index % CLASSES]), np.random.RandomState([SEED, kind, index]))
            for index in range(begin, begin + BATCH)
        ]
        yield np.stack(made).astype(np.float32)


def evaluation(name: str, shape: tuple[int, ...]) -> "Iterator[tuple[Arrays, Arrays]]":
    """Samples with their numbers for targets: a network is asked to do as PyTorch does, right or wrong."""
    import numpy as np

    for index, batch in enumerate(samples(shape, EVALUATION)):
        yield {name: batch}, {"index": np.arange(index * BATCH, (index + 1) * BATCH)}


def _picture(
    shape: tuple[int, ...], shared: "np.random.RandomState", own: "np.random.RandomState"
) -> "NDArray[np.float64]":
    """The squares of its class over a colour of its own, under noise."""
    channels, size, _ = shape
    across = int(shared.choice([2, 4, 8]))
    squares = shared.standard_normal((channels, across, across))
    squares = squares.repeat(size // across, axis=1).repeat(size // across, axis=2)
    colour = 0.3 * own.standard_normal((channels, 1, 1))
    picture: NDArray[np.float64] = squares + colour + own.uniform(0, 0.5) * own.standard_normal(shape)
    return picture


def _sequence(
    shape: tuple[int, ...], shared: "np.random.RandomState", own: "np.random.RandomState"
) -> "NDArray[np.float64]":
    """The waves of its class, one a feature, a little later or earlier, under noise."""
    import numpy as np

    steps, features = shape
    time = np.arange(steps)[:, np.newaxis] + own.uniform(-0.5, 0.5)
    waves = shared.uniform(0.5, 2, features) * np.sin(shared.uniform(0.1, 1, features) * time + shared.uniform(0, 6))
    sequence: NDArray[np.float64] = waves + 0.2 * own.standard_normal(shape)
    return sequence


def same_class(outputs: "Arrays", targets: "Arrays", reference: "Arrays") -> float:  # noqa: ARG001 -- every metric is given it
    """Share of samples on which the engine decides as PyTorch does."""
    (name,) = reference
    return float((outputs[name].argmax(axis=1) == reference[name].argmax(axis=1)).mean())


def same_picture(outputs: "Arrays", targets: "Arrays", reference: "Arrays") -> float:  # noqa: ARG001 -- every metric is given it
    """One less the relative error of the pictures against PyTorch's."""
    import numpy as np

    (name,) = reference
    found, wanted = (np.asarray(pictures[name], np.float64) for pictures in (outputs, reference))
    return float(1 - np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
