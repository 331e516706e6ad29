"""Torch modules that are no function of their inputs, and some that are one though they keep something."""

import time

import numpy as np
import torch
from torch import nn


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc(input=nn.functional.dropout(x, 0.5, training=True))
        return y


class NumpyNoise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + float(np.random.rand())


class Clock(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + time.perf_counter_ns() % 1000003


class Awake(nn.Module):
    """Puts its normalisation into training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.norm.train()
        y: torch.Tensor = self.norm(x)
        return y


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count: torch.Tensor
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x + self.count


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last: torch.Tensor | float = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, self.last = x + self.last, x.mean()
        return y


class Keeping(nn.Module):
    """Attends to all that it was ever given, as a cache of keys and values does."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.keys.append(x)
        return torch.cat(self.keys).mean(0, keepdim=True) + x


class Growing(nn.Module):
    """Runs once: then its state has another size than its input."""

    def __init__(self) -> None:
        super().__init__()
        self.state: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.state = x if self.state is None else torch.cat([self.state, x])
        return x + self.state


class FirstSeen(nn.Module):
    """Normalises by the first batch that it ever saw, and is repeatable from then on."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mean is None:
            self.mean = x.mean(0)
        return x - self.mean


class Cached(nn.Module):
    """A function, though a table of positions, a counter and the last shape are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.table: torch.Tensor
        self.register_buffer("table", torch.zeros(0), persistent=False)
        self.calls = 0
        self.seen: dict[tuple[int, ...], int] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen[tuple(x.shape)] = self.calls
        if len(self.table) < x.shape[1]:
            self.table = torch.arange(x.shape[1], dtype=x.dtype)
        return x + self.table[: x.shape[1]]


class Aside(nn.Module):
    """Writes statistics that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: torch.Tensor
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.largest.copy_(x.abs().max())
        return x * 2


class Scaled(nn.Module):
    """Drawn anew by each factory's call, and kept where no weight is."""

    def __init__(self) -> None:
        super().__init__()
        self.by = float(np.random.default_rng().standard_normal())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.by


class Masked(nn.Module):
    """A function whose outputs hold infinities and NaN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, torch.log(-x), x.masked_fill(x < -1, float("-inf")))
