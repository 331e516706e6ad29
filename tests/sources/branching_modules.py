"""Torch modules that one exporter, or every one, gets wrong or refuses."""

import torch
from torch import nn


class Tagger(nn.Module):
    """The dynamo exporter fixes the length of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.lstm(self.table(x))[0]
        return y


class Loop(nn.Module):
    """Both exporters unroll it at the length that they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(x.shape[0], 4)
        for step in range(x.shape[1]):
            h = self.cell(x[:, step], h)
        return h


class OnValues(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # the line that is told
            return x * 2
        return x - 1


class OnInteger(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if bool((x > 7).any()) else x + 1


class OnSize(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[0] == 2 else x - 1


class OnMask(nn.Module):
    """Asks for values, of what follows from sizes alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.ones_like(x, dtype=torch.bool)
        return x * 2 if bool(mask.all()) else x - 1


class Singular(nn.Module):
    """ONNX has no operator for it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.linalg.svdvals(x)
        return y


class Difference(nn.Module):
    """Not the same with its inputs changed over."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x - 2 * y


class UNet(nn.Module):
    """Runs at multiples of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, 1, 1), nn.Conv2d(2, 2, 3, 1, 1)
        self.up = nn.ConvTranspose2d(2, 2, 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        deep = self.second(nn.functional.max_pool2d(first, 4))
        return torch.cat([first, self.up(torch.relu(deep))], 1)


class Decoder(nn.Module):
    """nn.TransformerDecoder compares its mask with a causal one."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8, batch_first=True), 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        y: torch.Tensor = self.decoder(x, x, tgt_mask=mask)
        return y
