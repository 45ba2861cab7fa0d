"""The six networks, in two presets, and a rival's first one.

`paper` follows sections 4.1 to 4.3 of arXiv:2211.11462 (fixed input sizes, tested against its tables);
`compact` is what is shipped: any tile size, any number of channels, small enough for one CPU core.

Every network takes and gives float32, batch first, as docs/architecture.md ("Networks") says. Networks
whose output is a probability have two entries: `logits(x)`, which the losses use, and `forward(x)`,
which ends in the sigmoid and is what is exported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from casa_deepfocus.core.preprocessing import PLANES
from casa_deepfocus.errors import ParameterError

NETWORKS = ("blobs_finder", "deep_gru", "fwhm_maj", "fwhm_min", "pa", "flux")
"""Names of the six networks, in the order of the pipeline."""

RESNETS = ("fwhm_maj", "fwhm_min", "pa", "flux")
"""Those that measure a stamp."""

PRESETS = ("paper", "compact", "decoras")
"""`decoras` has a Blobs Finder only, the one that the paper compares with (section 5.1)."""

OUTPUTS = {"fwhm_maj": 1, "fwhm_min": 1, "pa": 2, "flux": 1}
"""Values that each ResNet gives per stamp."""


def _leaky_block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    # The paper's order: convolution, activation, batch normalisation.
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1),
        nn.LeakyReLU(),
        nn.BatchNorm2d(channels_out),
    )


class _Probability(nn.Module):
    """A network whose `forward` is the sigmoid of its `logits`."""

    def logits(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(x))


class PaperUpsampling(nn.Module):
    """The paper's deconvolutional block: bilinear and learnt upsampling, concatenated, then two convolutions.

    The paper writes "stride 2" for the first convolution after the concatenation; its Table 3 allows only 1.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.bilinear = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.LeakyReLU(),
            nn.BatchNorm2d(channels_in),
        )
        self.learnt = nn.Sequential(
            nn.ConvTranspose2d(channels_in, channels_in, 3, stride=2, padding=1, output_padding=1),
            nn.LeakyReLU(),
            nn.BatchNorm2d(channels_in),
        )
        self.convolutions = nn.Sequential(
            _leaky_block(2 * channels_in, channels_out), nn.Conv2d(channels_out, channels_out, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convolutions(torch.cat([self.bilinear(x), self.learnt(x)], dim=1))


class LocalBottleneck(nn.Module):
    """A fully connected bottleneck of `latent` numbers that is held to be the same all over the image.

    Two fully connected layers from (64, 16, 16) to a latent vector and back, whose weights are those of two
    convolutions: each of the 16 x 16 cells has latent / 256 numbers of its own, made from itself and its eight
    neighbours. It has a thousandth of their parameters, and learns in as much less time what turning and mirroring the
    images teaches them; `dense` gives the two layers, which then learn freely.

    (b, 64, 16, 16) -> (b, 64, 16, 16).
    """

    SIDE = 16
    CHANNELS = 64

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(self.CHANNELS, latent // self.SIDE**2, 3, padding=1)
        self.up = nn.Conv2d(latent // self.SIDE**2, self.CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))

    @classmethod
    def dense(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """State of the two fully connected layers fc1 and fc2 that do the same as these `weights`, by name."""
        out = {}
        for name, layer in (("fc1", "down"), ("fc2", "up")):
            kernel, bias = weights[f"{layer}.weight"].contiguous(), weights[f"{layer}.bias"]
            size = kernel.shape[1] * cls.SIDE**2
            # What a convolution makes of every unit image is a column of its matrix.
            images = torch.eye(size).reshape(size, -1, cls.SIDE, cls.SIDE)
            out[f"{name}.weight"] = nn.functional.conv2d(images, kernel, padding=1).reshape(size, -1).T.contiguous()
            out[f"{name}.bias"] = bias.repeat_interleave(cls.SIDE**2)
        return out


class _Autoencoder(_Probability):
    """What the two autoencoders share: their bottleneck, fully connected or held local, and their input."""

    local: LocalBottleneck | None

    def _bottleneck(self, latent: int, *, local: bool) -> None:
        self.local = LocalBottleneck(latent) if local else None
        if not local:
            self.fc1 = nn.Linear(64 * 16 * 16, latent)
            self.fc2 = nn.Linear(latent, 64 * 16 * 16)

    def _squeeze(self, x: Tensor) -> Tensor:
        if self.local is not None:
            return self.local(x)
        return self.fc2(self.fc1(x.flatten(1))).reshape(-1, 64, 16, 16)

    @staticmethod
    def _check(x: Tensor) -> None:
        if x.shape[-2:] != (256, 256):
            raise ParameterError("x", tuple(x.shape), "this network takes 256x256 only", "Use preset 'compact'")

    @staticmethod
    def widened(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights with fully connected layers in place of a local bottleneck, if they have one."""
        prefix = "local."
        held = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        if not held:
            return state
        return {k: v for k, v in state.items() if not k.startswith(prefix)} | LocalBottleneck.dense(held)


class PaperBlobsFinder(_Autoencoder):
    """Blobs Finder of section 4.1 and Table 3: a convolutional autoencoder with a bottleneck of 1024.

    Input and output (b, 1, 256, 256); the layers' shapes are those of Table 3. `local`: see `LocalBottleneck`.
    """

    def __init__(self, *, local: bool = False) -> None:
        super().__init__()
        widths = (1, 8, 16, 32, 64)
        self.encoder = nn.ModuleList(
            nn.Sequential(_leaky_block(a, b, stride=2), _leaky_block(b, b))
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self._bottleneck(1024, local=local)
        widths = (64, 32, 16, 8, 1)
        self.decoder = nn.ModuleList(PaperUpsampling(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.final = nn.Conv2d(1, 1, 1)

    def logits(self, x: Tensor) -> Tensor:
        self._check(x)
        for block in self.encoder:
            x = block(x)
        x = self._squeeze(x)
        for block in self.decoder:
            x = block(x)
        return self.final(x)


class DecorasBlobsFinder(_Autoencoder):
    """The detector of DECORAS (Rezaei et al. 2022) as the paper rebuilt it (section 5.1).

    Blobs Finder with a latent space of 256, transposed convolutions alone for the upsampling, and half of the
    convolutions. Input and output (b, 1, 256, 256). `local`: see `LocalBottleneck`.
    """

    def __init__(self, *, local: bool = False) -> None:
        super().__init__()
        widths = (1, 8, 16, 32, 64)
        self.encoder = nn.Sequential(
            *(_leaky_block(a, b, stride=2) for a, b in zip(widths[:-1], widths[1:], strict=True))
        )
        self._bottleneck(256, local=local)
        widths = (64, 32, 16, 8, 8)
        self.decoder = nn.Sequential(
            *(
                nn.Sequential(
                    nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1),
                    nn.LeakyReLU(),
                    nn.BatchNorm2d(b),
                )
                for a, b in zip(widths[:-1], widths[1:], strict=True)
            )
        )
        self.final = nn.Conv2d(8, 1, 1)

    def logits(self, x: Tensor) -> Tensor:
        self._check(x)
        return self.final(self.decoder(self._squeeze(self.encoder(x))))


class PaperDeepGRU(_Probability):
    """Deep GRU of section 4.2: two GRU layers of 32 in opposite directions, both concatenated, one FC layer.

    Input and output (b, nchan), nchan fixed when it is built (128 in the paper).
    """

    def __init__(self, nchan: int = 128, hidden: int = 32) -> None:
        super().__init__()
        self.nchan = nchan
        self.rising = nn.GRU(1, hidden, batch_first=True)
        self.falling = nn.GRU(hidden, hidden, batch_first=True)
        self.fc = nn.Linear(2 * hidden * nchan, nchan)

    def features(self, x: Tensor) -> Tensor:
        """(b, nchan) -> (b, 64 nchan): the latent vector of section 4.2."""
        first, _ = self.rising(x.unsqueeze(-1))
        second, _ = self.falling(first.flip(1))
        return torch.cat([first, second.flip(1)], dim=-1).flatten(1)

    def logits(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.nchan:
            raise ParameterError(
                "x", tuple(x.shape), f"this network was built for {self.nchan} channels", "Use preset 'compact'"
            )
        return self.fc(self.features(x))


class PaperResidual(nn.Module):
    """Residual block of Fig. 7: two convolutional blocks, CONCATENATED with the skip, then ReLU.

    Twice as many channels come out as went in. With downsampling the skip is a convolutional block of
    stride 2 and the first of the two has stride 2; without, the skip is the input itself.
    """

    def __init__(self, channels: int, *, down: bool) -> None:
        super().__init__()
        stride = 2 if down else 1
        self.main = nn.Sequential(self._block(channels, stride), self._block(channels, 1))
        self.skip = self._block(channels, stride) if down else nn.Identity()

    @staticmethod
    def _block(channels: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride=stride, padding=1), nn.ReLU(), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.cat([self.main(x), self.skip(x)], dim=1))


class PaperResNet(nn.Module):
    """ResNet of section 4.3: stem, four blocks of two residual blocks, adaptive max pooling, two FC layers.

    (b, 1, 64, 64) -> (b, 512, 4, 4) -> (b, 512) -> (b, outputs). Eight concatenations double the channels
    eight times, so 512 features follow from a stem of two; the pooling of the stem and the first residual
    block of blocks two to four halve the side (64 -> 32 -> 32, 16, 8, 4).
    """

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(2), nn.ReLU())
        blocks, channels = [], 2
        for index in range(4):
            blocks.append(
                nn.Sequential(PaperResidual(channels, down=index > 0), PaperResidual(2 * channels, down=False))
            )
            channels *= 4
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.head = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, outputs))

    def features(self, x: Tensor) -> Tensor:
        """(b, 1, 64, 64) -> (b, 512, 4, 4)."""
        return self.blocks(self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.features(x)).flatten(1))


def _block(channels_in: int, channels_out: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    # Convolution, normalisation, activation: in this order the normalisation folds into the convolution.
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(0.1),
    )


class AdditiveUpsampling(nn.Module):
    """The paper's additive upsampling (bilinear and transposed convolution, concatenated), with a skip.

    (b, channels_in, h, w) and (b, skip, 2h, 2w) -> (b, channels_out, 2h, 2w).
    """

    def __init__(self, channels_in: int, skip: int, channels_out: int) -> None:
        super().__init__()
        half = max(channels_out // 2, 4)
        self.reduce = nn.Conv2d(channels_in, half, 1)
        self.bilinear = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.learnt = nn.ConvTranspose2d(channels_in, half, 2, stride=2)
        self.convolution = _block(2 * half + skip, channels_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.convolution(torch.cat([self.bilinear(self.reduce(x)), self.learnt(x), skip], dim=1))


class CompactBlobsFinder(_Probability):
    """Fully convolutional Blobs Finder: encoder, dilated bottleneck, additive upsampling with skips.

    (b, planes, H, W) -> (b, 1, H, W), H and W multiples of 16; planes: `preprocessing.PLANES`. All but the
    first and last layer work at half the resolution and below (2.5 pixels per beam), which costs half of the
    time; an output pixel sees 137 working pixels (27 beams) to each side, which is where the strong sidelobes are.
    """

    HALO = 144
    """Working pixels at a tile's edge that may differ from the whole image: the reach, to a multiple of 16."""

    def __init__(self, planes: int = len(PLANES), widths: tuple[int, ...] = (16, 32, 64, 96)) -> None:
        super().__init__()
        first = widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(planes, first, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.LeakyReLU(0.1),
            _block(first, first),
        )
        self.encoder = nn.ModuleList(
            nn.Sequential(_block(a, b, stride=2), _block(b, b)) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.bottleneck = nn.Sequential(_block(widths[-1], widths[-1], dilation=2), _block(widths[-1], widths[-1]))
        self.decoder = nn.ModuleList(
            AdditiveUpsampling(b, a, a) for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.smooth = nn.Sequential(
            nn.Conv2d(first, 1, 1), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        )
        self.fine = nn.ConvTranspose2d(first, 1, 4, stride=2, padding=1)
        nn.init.constant_(self.fine.bias, -3.0)

    def logits(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skips = []
        for block in self.encoder:
            skips.append(x)
            x = block(x)
        x = self.bottleneck(x)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(x, skip)
        return self.smooth(x) + self.fine(x)


class CompactDeepGRU(_Probability):
    """Deep GRU for any number of channels: a short convolution, two bidirectional GRU layers, a head per channel.

    (b, nchan) -> (b, nchan).
    """

    def __init__(self, hidden: int = 32, features: int = 16, kernel: int = 9) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(1, features, kernel, padding=kernel // 2), nn.LeakyReLU(0.1))
        self.gru = nn.GRU(features, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, 1)
        nn.init.constant_(self.head.bias, -2.0)

    def logits(self, x: Tensor) -> Tensor:
        hidden, _ = self.gru(self.front(x.unsqueeze(1)).transpose(1, 2))
        return self.head(hidden).squeeze(-1)


class CompactResidual(nn.Module):
    """Concatenating residual block: half of the channels from two convolutions, half from the skip."""

    def __init__(self, channels_in: int, channels_out: int, *, down: bool) -> None:
        super().__init__()
        half, stride = channels_out // 2, 2 if down else 1
        self.main = nn.Sequential(
            nn.Conv2d(channels_in, half, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1, bias=False),
            nn.BatchNorm2d(half),
        )
        if down or channels_in != half:
            self.skip: nn.Module = nn.Sequential(
                nn.Conv2d(channels_in, half, 2 if down else 1, stride=stride, bias=False), nn.BatchNorm2d(half)
            )
        else:
            self.skip = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.cat([self.main(x), self.skip(x)], dim=1))


class CompactResNet(nn.Module):
    """ResNet on three planes of 32 x 32 (`preprocessing.resnet_input`), about 0.1 M parameters.

    (b, 3, 32, 32) -> (b, outputs). The last 4 x 4 map is kept whole before the two fully connected layers:
    a size or an angle is a relation between positions, which pooling would wash out. `positive` ends in a
    softplus (sizes).
    """

    def __init__(self, outputs: int = 1, *, positive: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.Sequential(
            CompactResidual(16, 32, down=True),
            CompactResidual(32, 32, down=False),
            CompactResidual(32, 48, down=True),
            CompactResidual(48, 48, down=False),
            CompactResidual(48, 64, down=True),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, outputs))
        self.end: nn.Module = nn.Softplus(beta=4.0) if positive else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.head(self.blocks(self.stem(x))))


def build(name: str, preset: str = "compact", *, nchan: int = 128, local: bool = False) -> nn.Module:
    """A network with fresh weights.

    Parameters
    ----------
    name : str, one of `NETWORKS`
    preset : str, one of `PRESETS`
    nchan : int, channels of the paper's Deep GRU (the compact one takes any number)
    local : bool, the autoencoders of `paper` and `decoras` with their bottleneck held local (`LocalBottleneck`)

    Returns
    -------
    torch.nn.Module
    """
    if preset not in PRESETS:
        raise ParameterError("preset", preset, "no such preset", f"Choose one of {', '.join(PRESETS)}")
    if name not in NETWORKS:
        raise ParameterError("name", name, "no such network", f"Choose one of {', '.join(NETWORKS)}")
    if preset == "decoras":
        if name != "blobs_finder":
            raise ParameterError("name", name, "preset 'decoras' has none", "It has blobs_finder only")
        return DecorasBlobsFinder(local=local)
    if name == "blobs_finder":
        return PaperBlobsFinder(local=local) if preset == "paper" else CompactBlobsFinder()
    if name == "deep_gru":
        return PaperDeepGRU(nchan) if preset == "paper" else CompactDeepGRU()
    if preset == "paper":
        return PaperResNet(OUTPUTS[name])
    return CompactResNet(OUTPUTS[name], positive=name.startswith("fwhm"))


def parameter_count(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in network.parameters())
