"""Image -> its own weights: the transformers of TransINR and of instance pattern composers (IPC),
and the seed experiment's residual network.

Tokens of the image's patches and learned weight tokens go through one transformer encoder. Its
outputs at the weight tokens turn shared weights into those of one image. The transformers differ in
what a weight token stands for, see `ModulationConfig.kind`, and are otherwise the same network. The
residual network predicts all weights and biases; it uses only the SIREN config of the base.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil, sqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hyperinit.base.errors import InputError
from hyperinit.base.settings import check, option
from hyperinit.images.coords import image_to_rgb
from hyperinit.siren.network import Params, SirenConfig, param_shapes

# Kind -> the layers whose weights it makes (0 is the first); all other parameters are the base's.
MODULATED_LAYERS = {"columns": slice(None), "low-rank": slice(1, 2), "residual": slice(None)}


@dataclass(frozen=True)
class ModulationConfig:
    """Size of a transformer that modulates weights.

    Attributes:
        kind: "columns" (TransINR): every weight matrix is the base's, multiplied by vectors that
            are predicted from the layer's tokens, one token for a group of units. "low-rank" (IPC):
            the second layer's matrix is a shared (width, rank) times a predicted (rank, width) one,
            one token per rank; all other layers are shared. "residual" (ours): every weight matrix
            and bias is the base's plus a shared (width, rank) times a predicted (rank, width + 1)
            one, one token per rank; the product is zero before training.
        image_size: Images are area-resized to this many pixels a side before they are read.
        patch_size: Side of a patch, in these pixels; the border is padded to whole patches.
        weight_tokens: Tokens per modulated layer, at most its number of units: groups, or the rank.
        token_size: Numbers in a token.
        transformer_layers: Layers of the encoder; feed-forward layers have four times token_size.
        attention_heads: Attention heads of each layer.
    """

    kind: Literal["columns", "low-rank", "residual"]
    image_size: int = option(at_least=1)
    patch_size: int = option(at_least=1)
    weight_tokens: int = option(at_least=1)
    token_size: int = option(at_least=1)
    transformer_layers: int = option(at_least=1)
    attention_heads: int = option(at_least=1)

    def __post_init__(self) -> None:
        check(self)
        if self.patch_size > self.image_size:
            raise InputError(f"patch_size {self.patch_size} exceeds the images' {self.image_size}")
        if self.token_size % self.attention_heads:
            raise InputError(
                f"token_size must be a multiple of attention_heads, not {self.token_size} with"
                f" {self.attention_heads}"
            )

    @classmethod
    def of(cls, kind: Any, settings: Any) -> ModulationConfig:
        """Builds it from training settings: they have these fields, and the images' `size`."""
        own = {field.name for field in fields(cls)} - {"kind", "image_size"}
        return cls(kind, settings.size, **{name: getattr(settings, name) for name in own})

    def layers(self, siren: SirenConfig) -> list[int]:
        """The layers of a SIREN whose weights it makes.

        Raises:
            InputError: it modulates the second sine layer, and the SIREN has none.
        """
        if self.kind == "low-rank" and siren.depth < 2:
            raise InputError(f"ipc modulates the second sine layer; depth {siren.depth} has none")
        return list(range(siren.depth + 1))[MODULATED_LAYERS[self.kind]]


class Patches(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> one token per patch, (B, cells * cells, token_size)."""

    def __init__(self, config: ModulationConfig) -> None:
        super().__init__()
        self.size, self.patch = config.image_size, config.patch_size
        cells = ceil(self.size / self.patch)
        self.missing = cells * self.patch - self.size
        self.embed = nn.Linear(3 * self.patch**2, config.token_size)
        self.position = nn.Parameter(torch.randn(cells**2, config.token_size))

    def forward(self, images: Tensor) -> Tensor:
        resized = nn.functional.adaptive_avg_pool2d(images, self.size)
        colours = image_to_rgb(resized).transpose(-1, -2).unflatten(-1, (self.size, self.size))
        before, after = self.missing // 2, self.missing - self.missing // 2
        padded = nn.functional.pad(colours, (before, after, before, after))
        patches = nn.functional.unfold(padded, self.patch, stride=self.patch)  # (B, 3 p p, cells^2)
        tokens: Tensor = self.embed(patches.transpose(-1, -2)) + self.position
        return tokens


class ModulatedWeight(nn.Module):
    """One layer's weight tokens, and the map from their outputs to its weights."""

    def __init__(self, config: ModulationConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        units, fan_in = shape
        count = min(config.weight_tokens, units)
        self.tokens = nn.Parameter(torch.randn(count, config.token_size))
        self.rows = nn.Sequential(
            nn.LayerNorm(config.token_size), nn.Linear(config.token_size, fan_in)
        )
        low_rank = config.kind == "low-rank"
        shared = torch.randn(units, count) / sqrt(count * fan_in)
        self.shared = nn.Parameter(shared) if low_rank else None

    def forward(self, tokens: Tensor, base: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, count, token_size) of the images, base (out, in) -> weights (B, out, in).

        The biases (B, out) are the base's (out,) for all images.

        The sources scale the weights into each unit to norm 1, which suits a ReLU network whose
        inputs have length one. A SIREN depends on the scale of its weights, so here they get the
        norm of the base's, which is that of the base init before training and is learned.
        """
        rows = self.rows(tokens)  # (B, count, in)
        if self.shared is None:
            # As in TransINR, units i, i + count, i + 2 count, ... share a token.
            raw = base * rows[:, torch.arange(len(base), device=base.device) % rows.shape[1]]
        else:
            raw = self.shared @ rows
        norms = base.norm(dim=-1, keepdim=True)  # (out, 1)
        weights: Tensor = norms * nn.functional.normalize(raw, dim=-1)
        return weights, bias.expand(len(tokens), -1)


class ResidualWeight(nn.Module):
    """One layer's weight tokens, and the map from their outputs to its residual."""

    def __init__(self, config: ModulationConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        units, fan_in = shape
        count = min(config.weight_tokens, units)
        self.tokens = nn.Parameter(torch.randn(count, config.token_size))
        rows = nn.Linear(config.token_size, fan_in + 1)
        nn.init.zeros_(rows.weight)
        nn.init.zeros_(rows.bias)
        self.rows = nn.Sequential(nn.LayerNorm(config.token_size), rows)
        self.shared = nn.Parameter(torch.randn(units, count) / sqrt(count))

    def forward(self, tokens: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, count, token_size), base (out, in) and (out,) -> (B, out, in) and (B, out).

        The residual is in units of the base's root mean square, so that training steps have the
        same relative size in every layer.
        """
        residual: Tensor = self.shared @ self.rows(tokens)  # (B, out, in + 1)
        return (
            weight + _rms(weight) * residual[..., :-1],
            bias + _rms(bias) * residual[..., -1],
        )


def _rms(values: Tensor) -> Tensor:
    return values.detach().square().mean().sqrt()


class Modulator(nn.Module):
    """The whole transformer: images + a base -> the SIRENs of the images.

    Args:
        config: See ModulationConfig.
        siren: The network of the base.
    """

    def __init__(self, config: ModulationConfig, siren: SirenConfig) -> None:
        super().__init__()
        shapes = param_shapes(siren)
        self.layers = config.layers(siren)
        self.patches = Patches(config)
        # Not nn.TransformerEncoder, whose layers all start as copies of one layer.
        self.encoder = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    config.token_size,
                    config.attention_heads,
                    4 * config.token_size,
                    dropout=0.0,
                    activation="gelu",
                    batch_first=True,
                    norm_first=True,
                )
                for _ in range(config.transformer_layers)
            )
        )
        made = ResidualWeight if config.kind == "residual" else ModulatedWeight
        self.weights = nn.ModuleList(
            made(config, shapes[f"layers.{layer}.weight"]) for layer in self.layers
        )

    def forward(self, images: Tensor, base: Params) -> Params:
        """Images (B, 3, H, W) in [0, 1] of any size, one base -> B stacked SIRENs."""
        image_tokens = self.patches(images)  # (B, cells^2, token_size)
        learned = torch.cat([weight.tokens for weight in self.weights])  # type: ignore[misc]
        tokens = torch.cat((image_tokens, learned.expand(len(images), *learned.shape)), dim=1)
        out = self.encoder(tokens)[:, image_tokens.shape[1] :]
        tensors = {name: value.expand(len(images), *value.shape) for name, value in base.items()}
        counts = [len(weight.tokens) for weight in self.weights]  # type: ignore[arg-type]
        parts = zip(self.layers, self.weights, out.split(counts, dim=1), strict=True)
        for layer, made, part in parts:
            names = f"layers.{layer}.weight", f"layers.{layer}.bias"
            pair = made(part, *(base[name] for name in names))
            tensors.update(zip(names, pair, strict=True))
        return Params(base.config, tensors)


@dataclass(frozen=True)
class TrunkConfig:
    """Size of a residual network that predicts all weights and biases (the seed experiment's).

    Attributes:
        image_size: Images are area-resized to this many pixels a side before they are read.
        trunk_width: Inner channels of the first bottleneck, doubled at each halving of the size (64
            in ResNet-50). The channels between bottlenecks are always those of ResNet-50.
        code_size: Length of the image's code, and units of each hidden layer behind it.
        hidden_layers: Number of these hidden layers.
    """

    image_size: int = option(at_least=1, at_most=2**14)
    trunk_width: int = option(64, at_least=1, at_most=2**10)
    code_size: int = option(256, at_least=1, at_most=2**16)
    hidden_layers: int = option(2, at_least=0, at_most=2**6)

    def __post_init__(self) -> None:
        check(self)


class LayerHead(nn.Module):
    """Output of the last hidden layer -> weight (B, out, in) and bias (B, out) of one sine layer.

    Before training they are almost constant, drawn for each layer as in the seed experiment.
    """

    def __init__(self, features: int, units: int, fan_in: int) -> None:
        super().__init__()
        self.shape = (units, fan_in)
        self.weight, self.bias = nn.Linear(features, units * fan_in), nn.Linear(features, units)
        for part, bound in ((self.weight, 1 / fan_in), (self.bias, 1 / features)):
            nn.init.normal_(part.weight, std=0.01 * sqrt(2 / features))
            nn.init.uniform_(part.bias, -bound, bound)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.weight(features).unflatten(-1, self.shape), self.bias(features)


class Trunk(nn.Module):
    """The whole network: a 50-layer residual network, hidden layers, and one head per SIREN layer.

    The residual network is torchvision's, untrained, so nothing is downloaded. Its normalisation
    uses the batch's statistics in training mode, and running statistics otherwise.

    Args:
        config: See TrunkConfig.
        siren: The network that it predicts.
    """

    def __init__(self, config: TrunkConfig, siren: SirenConfig) -> None:
        super().__init__()
        from torchvision.models import resnet50  # takes a second to import

        self.size, code = config.image_size, config.code_size
        self.encoder = resnet50(weights=None, num_classes=code, width_per_group=config.trunk_width)
        layers = [(nn.Linear(code, code), nn.ReLU()) for _ in range(config.hidden_layers)]
        self.hidden = nn.Sequential(*(part for pair in layers for part in pair))
        shapes = param_shapes(siren)
        self.heads = nn.ModuleList(
            LayerHead(code, *shapes[f"layers.{layer}.weight"]) for layer in range(siren.depth + 1)
        )

    def code(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of any size -> their codes (B, code_size)."""
        small = nn.functional.adaptive_avg_pool2d(images, self.size)
        colours = image_to_rgb(small).transpose(-1, -2).unflatten(-1, (self.size, self.size))
        code: Tensor = self.encoder(colours)
        return code

    def predict(self, code: Tensor, siren: SirenConfig) -> Params:
        """Codes (B, code_size) -> B stacked SIRENs."""
        features = self.hidden(code.relu())
        tensors: dict[str, Tensor] = {}
        for layer, head in enumerate(self.heads):
            weight, bias = head(features)
            tensors |= {f"layers.{layer}.weight": weight, f"layers.{layer}.bias": bias}
        return Params(siren, tensors)

    def forward(self, images: Tensor, base: Params) -> Params:
        """Images (B, 3, H, W) in [0, 1] of any size -> B stacked SIRENs of the base's kind."""
        return self.predict(self.code(images), base.config)
