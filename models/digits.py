"""A small convolutional network that reads scikit-learn's 8 x 8 digits: `python -m models.digits` trains it.

What a pipeline needs of a model is here: a factory, two data sources and a metric. They import what they use inside,
so that data can be read where torch is not installed.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

Arrays: TypeAlias = "dict[str, NDArray[np.generic]]"

CHECKPOINT = Path(__file__).with_suffix(".safetensors")
SEED = 7
HELD_OUT = 0.4  # of the 1797 images: enough that one image moves top-1 by less than 0.2 %
CALIBRATION_BATCH = 32
EVALUATION_BATCH = 64
EPOCHS = 30
TRAINING_BATCH = 64


def build() -> "nn.Module":
    """Make the network, with weights that are not trained yet: trtflow loads the checkpoint into it."""
    from torch import nn

    return nn.Sequential(
        *_convolution(1, 16),
        *_convolution(16, 32),
        nn.MaxPool2d(2),
        *_convolution(32, 64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 2 * 2, 10),
    )


def calibration() -> "Iterator[Arrays]":
    """Training images, which show a quantiser the usual range of every tensor."""
    images, _, _, _ = split()
    for start in range(0, len(images), CALIBRATION_BATCH):
        yield {"image": images[start : start + CALIBRATION_BATCH]}


def evaluation() -> "Iterator[tuple[Arrays, Arrays]]":
    """Held-out images and what they show: the network never trained on them."""
    _, _, images, labels = split()
    for start in range(0, len(images), EVALUATION_BATCH):
        end = start + EVALUATION_BATCH
        yield {"image": images[start:end]}, {"label": labels[start:end]}


def top1(outputs: "Arrays", targets: "Arrays", reference: "Arrays") -> float:  # noqa: ARG001 -- every metric is given it
    """Share of images whose highest logit is that of their label."""
    return float((outputs["logits"].argmax(axis=1) == targets["label"]).mean())


def split() -> "tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]":
    """Training images and labels, then held-out images and labels; the same on every machine."""
    if importlib.util.find_spec("sklearn") is None:
        message = "the digits example reads the data set that scikit-learn carries: pip install scikit-learn"
        raise ModuleNotFoundError(message, name="sklearn")
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, np.newaxis]  # a pixel counts 0 to 16 dots
    labels = digits.target.astype(np.int64)
    # RandomState is the generator whose numbers numpy never changes: the held-out images stay held out.
    order = np.random.RandomState(SEED).permutation(len(images))
    held_out, training = np.split(order, [round(len(images) * HELD_OUT)])
    return images[training], labels[training], images[held_out], labels[held_out]


def train() -> "nn.Module":
    """Train on the training images alone, from fixed seeds."""
    import torch
    from torch.nn.functional import cross_entropy

    torch.manual_seed(SEED)
    model = build().train()
    images, labels, _, _ = (torch.from_numpy(array) for array in split())
    steps = EPOCHS * (len(images) // TRAINING_BATCH + 1)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(TRAINING_BATCH):
            loss = cross_entropy(model(_shifted(images[batch])), labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(model: "nn.Module") -> float:
    """Top-1 of the module itself on the held-out images."""
    import numpy as np
    import torch

    logits, labels = [], []
    with torch.inference_mode():
        for feeds, targets in evaluation():
            logits.append(model(torch.from_numpy(feeds["image"])).numpy())
            labels.append(targets["label"])
    return top1({"logits": np.concatenate(logits)}, {"label": np.concatenate(labels)}, {})


def main() -> None:
    """Train, say what was reached and write the checkpoint."""
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)  # sums are added in one order, whatever the number of cores: the same checkpoint again
    model = train()
    save_file(model.state_dict(), CHECKPOINT)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{CHECKPOINT.name}: {parameters} parameters, top-1 {accuracy(model):.4f} on the held-out images")


def _convolution(inputs: int, outputs: int) -> "tuple[nn.Module, nn.Module, nn.Module]":
    from torch import nn

    # The normalisation brings a bias of its own.
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def _shifted(images: "torch.Tensor") -> "torch.Tensor":
    """Move a batch by at most one pixel each way: 1078 images are few, and a digit moved is the same digit."""
    import torch
    from torch.nn.functional import pad

    down, right = torch.randint(0, 3, (2,)).tolist()
    return pad(images, (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]


if __name__ == "__main__":
    main()
