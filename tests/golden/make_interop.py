"""Writes interop.json: names, shapes and logits of the architectures of docs/interop.md in PyTorch.

    python3 -m venv /tmp/reference
    /tmp/reference/bin/pip install torch==2.13.0 numpy
    /tmp/reference/bin/python tests/golden/make_interop.py

These are the architectures that exported weights load into. Each is small and gets the weights of
interop_draws.py by a strict load_state_dict. To compare a network with weights exported by bat_jax,
in an environment that also has safetensors:

    /tmp/reference/bin/python tests/golden/make_interop.py WEIGHTS.safetensors IMAGES.npy LOGITS.npy

reads [0, 1] images, NHWC, and writes the network's logits.
"""

import json
import re
import sys
from pathlib import Path

import interop_draws
import numpy as np
import torch
from torch import nn
from torch.nn import functional

PATH = Path(__file__).with_name("interop.json")
NUM_CLASSES = 10
SIZES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
# Per case: model, width, image side, channels, stem; then what its name leaves free.
CASES = {
    "small_cnn": ("small_cnn", 4, 10, 1, "cifar"),
    "resnet18": ("resnet18", 4, 32, 3, "cifar"),
    "preact_resnet18": ("preact_resnet18", 4, 32, 3, "cifar"),
    "preact_resnet18 of Tiny ImageNet": ("preact_resnet18", 4, 64, 3, "tiny_imagenet"),
    "wide_resnet28_10": ("wide_resnet28_10", 1, 32, 3, "cifar"),
    "wide_resnet34_10": ("wide_resnet34_10", 1, 32, 3, "cifar"),
    "preact_resnet18 without bn": (
        *("preact_resnet18", 4, 32, 3, "cifar"),
        {"shortcut": "raw", "final_norm": False},
    ),
    "preact_resnet18 with raw shortcuts": (
        *("preact_resnet18", 2, 32, 3, "cifar"),
        {"shortcut": "raw"},
    ),
    "preact_resnet18 without bn, with activated shortcuts": (
        *("preact_resnet18", 2, 32, 3, "cifar"),
        {"shortcut": "activated", "final_norm": False},
    ),
    "resnet50": ("resnet50", 2, 32, 3, "cifar"),
    "wide_resnet16_3": ("wide_resnet", 4, 32, 3, "cifar", {"depth": 16, "widening": 3}),
    "dm_wide_resnet16_3": ("dm_wide_resnet", 4, 32, 3, "cifar", {"depth": 16, "widening": 3}),
    "dm_wide_resnet10_1": ("dm_wide_resnet", 4, 32, 3, "cifar", {"depth": 10, "widening": 1}),
    "dm_preact_resnet18": ("dm_preact_resnet18", 4, 32, 3, "cifar"),
    "dm_preact_resnet34": ("dm_preact_resnet", 2, 32, 3, "cifar", {"depth": 34}),
}


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


class SmallCNN(nn.Module):
    def __init__(self, width: int, channels: int, places: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, 2, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, 2, padding=1)
        self.fc1 = nn.Linear(4 * width * places, 8 * width)
        self.fc2 = nn.Linear(8 * width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.conv1, self.conv2, self.conv3):
            x = functional.relu(conv(x))
        return self.fc2(functional.relu(self.fc1(x.flatten(1))))


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, middle: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * middle
        self.conv1 = conv1x1(inputs, middle, 1)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = conv3x3(middle, middle, stride)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = conv1x1(middle, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNet50(nn.Module):
    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, width)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, (size, stride) in enumerate(((3, 1), (4, 2), (6, 2), (3, 2)), start=1):
            middle = width * 2 ** (stage - 1)
            blocks = [Bottleneck(inputs, middle, stride)]
            blocks += [Bottleneck(4 * middle, middle, 1) for _ in range(1, size)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            inputs = 4 * middle
        self.linear = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(functional.avg_pool2d(x, 4).flatten(1))


def padded(x: torch.Tensor, stride: int) -> torch.Tensor:
    """Pads as TensorFlow does at even sides: at stride 2, on the right and at the bottom."""
    return functional.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))


class DMWideBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_0 = nn.Conv2d(inputs, outputs, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_1 = conv3x3(outputs, outputs)
        if inputs != outputs:
            self.shortcut = conv1x1(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = functional.silu(self.batchnorm_0(x))
        y = self.conv_0(padded(activated, self.stride))
        y = self.conv_1(functional.silu(self.batchnorm_1(y)))
        return y + (self.shortcut(activated) if hasattr(self, "shortcut") else x)


class DMGroup(nn.Module):
    def __init__(self, size: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            DMWideBlock(inputs, outputs, stride),
            *(DMWideBlock(outputs, outputs, 1) for _ in range(1, size)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class DMWideResNet(nn.Module):
    def __init__(self, depth: int, widening: int, width: int, num_classes: int) -> None:
        super().__init__()
        size, channels = (depth - 4) // 6, [width, *(widening * width * n for n in (1, 2, 4))]
        self.init_conv = conv3x3(3, width)
        self.layer = nn.Sequential(
            *(
                DMGroup(size, channels[group], channels[group + 1], 2 if group else 1)
                for group in range(3)
            )
        )
        self.batchnorm = nn.BatchNorm2d(channels[-1])
        self.logits = nn.Linear(channels[-1], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.silu(self.batchnorm(self.layer(self.init_conv(x))))
        return self.logits(functional.avg_pool2d(x, 8).flatten(1))


class DMPreActBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_2d_1 = nn.Conv2d(inputs, outputs, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_2d_2 = conv3x3(outputs, outputs)
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 3, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv_2d_1(padded(functional.silu(self.batchnorm_0(x)), self.stride))
        y = self.conv_2d_2(functional.silu(self.batchnorm_1(y)))
        return y + (self.shortcut(padded(x, self.stride)) if hasattr(self, "shortcut") else x)


class DMPreActResNet(nn.Module):
    def __init__(self, depth: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv_2d = conv3x3(3, width)
        inputs = width
        for stage, size in enumerate(SIZES[depth]):
            outputs, stride = width * 2**stage, 2 if stage else 1
            blocks = [DMPreActBlock(inputs, outputs, stride)]
            blocks += [DMPreActBlock(outputs, outputs, 1) for _ in range(1, size)]
            setattr(self, f"layer_{stage}", nn.Sequential(*blocks))
            inputs = outputs
        self.batchnorm = nn.BatchNorm2d(inputs)
        self.logits = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer_3(self.layer_2(self.layer_1(self.layer_0(self.conv_2d(x)))))
        x = functional.silu(self.batchnorm(x))
        return self.logits(functional.avg_pool2d(x, 4).flatten(1))


class PreActivationBlock(nn.Module):
    """The block of both PreActResNet and WRN, whose shortcuts have different names."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, shortcut: str, *, raw: bool = False
    ) -> None:
        super().__init__()
        self.raw = raw
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        if stride > 1 or inputs != outputs:
            if shortcut == "shortcut":
                self.shortcut = nn.Sequential(conv1x1(inputs, outputs, stride))
            else:
                self.convShortcut = conv1x1(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = functional.relu(self.bn1(x))
        y = self.conv2(functional.relu(self.bn2(self.conv1(activated))))
        for name in ("shortcut", "convShortcut"):
            if hasattr(self, name):
                return y + getattr(self, name)(x if self.raw else activated)
        return y + x


class ResNet18(nn.Module):
    def __init__(
        self,
        width: int,
        stem_stride: int,
        num_classes: int,
        *,
        preact: bool,
        depth: int = 18,
        raw: bool = False,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        self.preact = preact
        self.conv1 = conv3x3(3, width, stem_stride)
        if not preact:
            self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, size in enumerate(SIZES[depth]):
            outputs = width * 2**stage
            shapes = [(inputs, outputs, 2 if stage else 1), *[(outputs, outputs, 1)] * (size - 1)]
            blocks = [
                PreActivationBlock(*shape, "shortcut", raw=raw) if preact else BasicBlock(*shape)
                for shape in shapes
            ]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = outputs
        if preact and final_norm:
            self.bn = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        if not self.preact:
            x = functional.relu(self.bn1(x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        if hasattr(self, "bn"):
            x = functional.relu(self.bn(x))
        return self.linear(x.mean((2, 3)))


class Stage(nn.Module):
    def __init__(self, size: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            PreActivationBlock(inputs, outputs, stride, "convShortcut"),
            *(PreActivationBlock(outputs, outputs, 1, "convShortcut") for _ in range(1, size)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """WRN-depth-widening: `width` is 16 in the published networks."""

    def __init__(
        self, depth: int, widening: int, width: int, stem_stride: int, num_classes: int
    ) -> None:
        super().__init__()
        size, wide = (depth - 4) // 6, widening * width
        self.conv1 = conv3x3(3, width, stem_stride)
        self.block1 = Stage(size, width, wide, 1)
        self.block2 = Stage(size, wide, 2 * wide, 2)
        self.block3 = Stage(size, 2 * wide, 4 * wide, 2)
        self.bn1 = nn.BatchNorm2d(4 * wide)
        self.fc = nn.Linear(4 * wide, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(functional.relu(self.bn1(x)).mean((2, 3)))


def network(
    name: str,
    width: int,
    side: int,
    channels: int,
    stem: str,
    num_classes: int,
    *,
    depth: int = 18,
    widening: int = 10,
    shortcut: str = "activated",
    final_norm: bool = True,
) -> nn.Module:
    stem_stride = 2 if stem == "tiny_imagenet" else 1
    if name == "small_cnn":
        return SmallCNN(width, channels, (-(-side // 4)) ** 2, num_classes)
    if name == "resnet50":
        return ResNet50(width, num_classes)
    if name == "dm_wide_resnet":
        return DMWideResNet(depth, widening, width, num_classes)
    if name.startswith("dm_preact_resnet"):
        return DMPreActResNet(depth, width, num_classes)
    if name.startswith("wide_resnet"):
        depth = depth if name == "wide_resnet" else int(name[11:13])
        return WideResNet(depth, widening, width, stem_stride, num_classes)
    preact = name.startswith("preact_resnet")
    return ResNet18(
        *(width, stem_stride, num_classes),
        preact=preact,
        depth=depth,
        raw=shortcut == "raw",
        final_norm=final_norm,
    )


def logits_of(model: nn.Module, images: np.ndarray, mean: list, std: list) -> np.ndarray:
    normalized = (torch.from_numpy(images) - torch.tensor(mean)) / torch.tensor(std)
    with torch.inference_mode():
        return model.eval()(normalized.permute(0, 3, 1, 2)).numpy()


def make() -> None:
    cases = {}
    for case, (name, width, side, channels, stem, *free) in CASES.items():
        settings = free[0] if free else {}
        model = network(name, width, side, channels, stem, NUM_CLASSES, **settings)
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        drawn = {key: interop_draws.tensor(key, tuple(shape)) for key, shape in shapes.items()}
        model.load_state_dict({key: torch.from_numpy(drawn[key]) for key in drawn}, strict=True)
        mean, std = [0.4, 0.5, 0.6][:channels], [0.2, 0.25, 0.3][:channels]
        logits = logits_of(model, interop_draws.image_batch(side, channels), mean, std)
        cases[case] = {
            "model": name,
            "stem": stem,
            "side": side,
            "mean": mean,
            "std": std,
            "logits": [[round(float(value), 6) for value in row] for row in logits],
            "tensors": shapes,
        }
        if "shortcut" in settings:
            cases[case]["shortcut"] = settings["shortcut"]
        print(f"{case}: {len(shapes)} tensors, logits {logits.min():.2f} to {logits.max():.2f}")
    # One line for a shape or a row of logits.
    lines = re.sub(
        r"\[([^\[\]]*)\]",
        lambda row: f"[{' '.join(row[1].split())}]",
        json.dumps(cases, indent=1),
    )
    PATH.write_text(lines + "\n")


def compare(weights: str, images: str, logits: str) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(weights, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(weights)
    batch = np.load(images, allow_pickle=False)
    (first,) = {"conv1.weight", "init_conv.weight", "conv_2d.weight"} & tensors.keys()
    width, channels = tensors[first].shape[:2]
    (head,) = {"fc2.bias", "linear.bias", "fc.bias", "logits.bias"} & tensors.keys()
    free = {name: int(metadata[name]) for name in ("depth", "widening") if name in metadata}
    if "shortcut" in metadata:
        free["shortcut"] = metadata["shortcut"]
    if metadata["model"].startswith("preact_resnet"):
        free["final_norm"] = "bn.bias" in tensors
    model = network(
        metadata["model"],
        width,
        batch.shape[1],
        channels,
        metadata["stem"],
        len(tensors[head]),
        **free,
    )
    model.load_state_dict(tensors, strict=True)
    mean, std = json.loads(metadata["mean"]), json.loads(metadata["std"])
    np.save(logits, logits_of(model, batch, mean, std))


if __name__ == "__main__":
    compare(*sys.argv[1:]) if len(sys.argv) > 1 else make()
