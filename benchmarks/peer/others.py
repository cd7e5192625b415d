"""Peers without this project's SIREN: siren-pytorch, a grid of features, JPEG, WebP."""

from __future__ import annotations

import io
import itertools
import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from hyperinit.base.errors import InputError


class AdamFit:
    """A fit by torch's Adam, step by step.

    Attributes:
        steps, over, muon_lr: As of SirenFit.
    """

    over = False
    muon_lr: float | None = None
    steps = 0
    _optimizer: torch.optim.Optimizer

    def take(self) -> None:
        """One step."""
        loss = self._loss()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.steps += 1

    def _loss(self) -> Tensor:
        """Of the next batch."""
        raise NotImplementedError


class SirenPytorchFit(AdamFit):
    """siren-pytorch's wrapper, fitted as in its README, with Adam at torch's default rate.

    The wrapper has no optimiser; 1e-3 is the default of `torch.optim.Adam(net.parameters())`. Its
    hidden layers have omega_0 1, its colours are in [0, 1], and its batch is the whole image.

    Attributes:
        epochs, weights, batch_pixels, lr: As of SirenFit.

    Raises:
        InputError: the package is not installed.
    """

    def __init__(self, image: Tensor, width: int, depth: int, lr: float, seed: int = 0) -> None:
        try:
            from siren_pytorch import SirenNet, SirenWrapper
        except ImportError as error:
            raise InputError(
                "siren-pytorch is not installed: pip install 'hyperinit[peers]', or name other"
                " --peers"
            ) from error
        torch.manual_seed(seed)  # it draws from torch's own generator
        net = SirenNet(dim_in=2, dim_hidden=width, dim_out=3, num_layers=depth, w0_initial=30.0)
        height, wide = image.shape[-2:]
        self._wrapper = SirenWrapper(net, image_width=wide, image_height=height)
        self._target = image[None]
        self._optimizer = torch.optim.Adam(net.parameters(), lr=lr)
        self.weights = sum(value.numel() for value in net.parameters())
        self.batch_pixels, self.lr = height * wide, lr

    @property
    def epochs(self) -> float:
        """Every step sees every pixel."""
        return float(self.steps)

    def _loss(self) -> Tensor:
        loss: Tensor = self._wrapper(self._target)
        return loss

    @torch.no_grad()
    def shown(self) -> Tensor:
        """Colours of all pixels on [0, 1], unclipped: (P, 3)."""
        shown: Tensor = self._wrapper()[0].flatten(1).T
        return shown


class GridFit(AdamFit):
    """A small grid of features like Instant-NGP (arXiv 2201.05989), without a SIREN.

    Levels of square grids, each at most 1.5 times as fine as the one before, from 16 to the image's
    longer side; two features at each corner, interpolated bilinearly; corners of a level that has
    more of them than its table are hashed into it. A ReLU network of two layers of 64 makes colours
    of the features. Adam 1e-2, betas .9 and .99, eps 1e-15, the image in one random order after
    the other. The tables are as large as makes the whole at most `weights` numbers: as many as the
    SIREN has that it is compared with.

    Attributes:
        epochs, weights, batch_pixels, lr: As of SirenFit.
    """

    GROWTH, FEATURES, COARSEST, HIDDEN = 1.5, 2, 16, 64
    PRIMES = (1, 2654435761)

    def __init__(self, image: Tensor, weights: int, lr: float = 1e-2, seed: int = 0) -> None:
        torch.manual_seed(seed)
        finer = max(max(image.shape[-2:]) / self.COARSEST, 1.0)
        levels = 1 + math.ceil(math.log(finer) / math.log(self.GROWTH))
        sizes = [levels * self.FEATURES, self.HIDDEN, self.HIDDEN, 3]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self._network = nn.Sequential(*layers[:-1])
        dense = sum(value.numel() for value in self._network.parameters())
        room = max(weights - dense, 0) // (levels * self.FEATURES)
        self._table_size = max(room, 16)
        self._corners, self._shares = self._places(image.shape[-2], image.shape[-1], levels)
        table = torch.empty(levels * self._table_size, self.FEATURES)
        self._table = nn.Parameter(table.uniform_(-1e-4, 1e-4))
        self._target = image.flatten(1).T.contiguous()
        self.pixels = len(self._target)
        self.batch_pixels = max(min(self.pixels // 4, 2**14), 1)
        self.weights = self._table.numel() + dense
        parameters = [self._table, *self._network.parameters()]
        self._optimizer = torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.99), eps=1e-15)
        self._generator = torch.Generator().manual_seed(seed)
        self._queue = torch.empty(0, dtype=torch.long)
        self.lr = lr

    @property
    def epochs(self) -> float:
        """Pixel visits / pixels."""
        return self.steps * self.batch_pixels / self.pixels

    def _loss(self) -> Tensor:
        if len(self._queue) < self.batch_pixels:
            order = torch.randperm(self.pixels, generator=self._generator)
            self._queue = torch.cat((self._queue, order))
        drawn = self._queue[: self.batch_pixels]
        self._queue = self._queue[self.batch_pixels :]
        return nn.functional.mse_loss(self._show(drawn), self._target[drawn])

    @torch.no_grad()
    def shown(self) -> Tensor:
        """Colours of all pixels on [0, 1], unclipped: (P, 3)."""
        return torch.cat([self._show(part) for part in torch.arange(self.pixels).split(8192)])

    def _show(self, pixels: Tensor) -> Tensor:
        features = nn.functional.embedding_bag(
            self._corners[pixels].view(-1, 4),
            self._table,
            per_sample_weights=self._shares[pixels].view(-1, 4),
            mode="sum",
        )
        shown: Tensor = self._network(features.view(len(pixels), -1))
        return shown

    def _places(self, height: int, width: int, levels: int) -> tuple[Tensor, Tensor]:
        """For each pixel and level the table's rows of the four corners, and their shares."""
        growth = (max(height, width) / self.COARSEST) ** (1 / max(levels - 1, 1))
        y = (torch.arange(height) + 0.5) / height
        x = (torch.arange(width) + 0.5) / width
        at = torch.stack((x.repeat(height), y.repeat_interleave(width)), -1)  # (P, 2) in (0, 1)
        rows, shares = [], []
        for level in range(levels):
            cells = max(round(self.COARSEST * growth**level), 1)
            place = at * cells
            low = place.floor()
            part = place - low
            for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
                corner_x, corner_y = (low + torch.tensor((dx, dy))).long().unbind(-1)
                row = corner_y * (cells + 1) + corner_x
                if (cells + 1) ** 2 > self._table_size:
                    row = (corner_x * self.PRIMES[0]) ^ (corner_y * self.PRIMES[1])
                rows.append(row % self._table_size + level * self._table_size)
                shares.append(
                    (part[:, 0] if dx else 1 - part[:, 0]) * (part[:, 1] if dy else 1 - part[:, 1])
                )
        shape = (len(at), levels, 4)
        return torch.stack(rows, -1).view(shape), torch.stack(shares, -1).view(shape)


# Name -> (Pillow's format, options but for the quality).
CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {"subsampling": 0, "optimize": True}),
    "webp": ("WEBP", {"method": 6}),
}


def fewest_bytes(image: Tensor, codec: str, level: float) -> tuple[int, float, float] | None:
    """The smallest file of a codec that shows an image this well.

    Args:
        image: (3, H, W) in [0, 1]; its 8-bit values are coded, and compared with the image itself.
        codec: A row of CODECS.
        level: PSNR in dB on [0, 1].

    Returns:
        (bytes, PSNR, seconds of coding it once), or None if no quality is good enough.
    """
    from PIL import Image

    kind, options = CODECS[codec]
    pixels = (image * 255).round().byte().permute(1, 2, 0).contiguous()
    picture = Image.fromarray(pixels.numpy())
    best: tuple[int, float, float] | None = None
    low, high = 1, 100
    while low <= high:  # more quality is more bytes, and hardly ever less PSNR
        quality = (low + high) // 2
        file = io.BytesIO()
        begin = time.perf_counter()
        picture.save(file, kind, quality=quality, **options)
        sec = time.perf_counter() - begin
        with Image.open(file) as read:
            data = torch.frombuffer(bytearray(read.convert("RGB").tobytes()), dtype=torch.uint8)
        shown = data.view(pixels.shape).permute(2, 0, 1) / 255
        psnr = float(-10 * torch.log10((shown - image).square().mean().clamp_min(1e-12)))
        if psnr >= level:
            best, high = (len(file.getvalue()), psnr, sec), quality - 1
        else:
            low = quality + 1
    return best
