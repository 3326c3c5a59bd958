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
# Per case: model, width, image side, channels, stem.
CASES = {
    "small_cnn": ("small_cnn", 4, 10, 1, "cifar"),
    "resnet18": ("resnet18", 4, 32, 3, "cifar"),
    "preact_resnet18": ("preact_resnet18", 4, 32, 3, "cifar"),
    "preact_resnet18 of Tiny ImageNet": ("preact_resnet18", 4, 64, 3, "tiny_imagenet"),
    "wide_resnet28_10": ("wide_resnet28_10", 1, 32, 3, "cifar"),
    "wide_resnet34_10": ("wide_resnet34_10", 1, 32, 3, "cifar"),
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


class PreActivationBlock(nn.Module):
    """The block of both PreActResNet-18 and WRN, whose shortcuts have different names."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
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
                return y + getattr(self, name)(activated)
        return y + x


class ResNet18(nn.Module):
    def __init__(self, width: int, stem_stride: int, num_classes: int, *, preact: bool) -> None:
        super().__init__()
        self.preact = preact
        self.conv1 = conv3x3(3, width, stem_stride)
        if not preact:
            self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, (multiple, stride) in enumerate(((1, 1), (2, 2), (4, 2), (8, 2)), start=1):
            outputs = multiple * width
            blocks = [
                PreActivationBlock(*sizes, "shortcut") if preact else BasicBlock(*sizes)
                for sizes in ((inputs, outputs, stride), (outputs, outputs, 1))
            ]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            inputs = outputs
        if preact:
            self.bn = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        if not self.preact:
            x = functional.relu(self.bn1(x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        if self.preact:
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
    """WRN-depth-10: `width` is 16 in the published networks."""

    def __init__(self, depth: int, width: int, stem_stride: int, num_classes: int) -> None:
        super().__init__()
        size = (depth - 4) // 6
        self.conv1 = conv3x3(3, width, stem_stride)
        self.block1 = Stage(size, width, 10 * width, 1)
        self.block2 = Stage(size, 10 * width, 20 * width, 2)
        self.block3 = Stage(size, 20 * width, 40 * width, 2)
        self.bn1 = nn.BatchNorm2d(40 * width)
        self.fc = nn.Linear(40 * width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(functional.relu(self.bn1(x)).mean((2, 3)))


def network(
    name: str, width: int, side: int, channels: int, stem: str, num_classes: int
) -> nn.Module:
    stem_stride = 2 if stem == "tiny_imagenet" else 1
    if name == "small_cnn":
        return SmallCNN(width, channels, (-(-side // 4)) ** 2, num_classes)
    if name.startswith("wide_resnet"):
        return WideResNet(int(name[11:13]), width, stem_stride, num_classes)
    return ResNet18(width, stem_stride, num_classes, preact=name == "preact_resnet18")


def logits_of(model: nn.Module, images: np.ndarray, mean: list, std: list) -> np.ndarray:
    normalized = (torch.from_numpy(images) - torch.tensor(mean)) / torch.tensor(std)
    with torch.inference_mode():
        return model.eval()(normalized.permute(0, 3, 1, 2)).numpy()


def make() -> None:
    cases = {}
    for case, (name, width, side, channels, stem) in CASES.items():
        model = network(name, width, side, channels, stem, NUM_CLASSES)
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
    width, channels = tensors["conv1.weight"].shape[:2]
    (head,) = {"fc2.bias", "linear.bias", "fc.bias"} & tensors.keys()
    model = network(
        metadata["model"],
        width,
        batch.shape[1],
        channels,
        metadata["stem"],
        len(tensors[head]),
    )
    model.load_state_dict(tensors, strict=True)
    mean, std = json.loads(metadata["mean"]), json.loads(metadata["std"])
    np.save(logits, logits_of(model, batch, mean, std))


if __name__ == "__main__":
    compare(*sys.argv[1:]) if len(sys.argv) > 1 else make()
