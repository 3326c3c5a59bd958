"""The PyTorch side of train_step.py and accelerator.py: PGD adversarial training in idiomatic form.

Tuned: channels_last memory, only input gradients and batch norm in evaluation mode in the attack,
`set_to_none` gradients, one thread per core; on CUDA, fused loops of torch.optim.SGD, images that
stay on the device, cuDNN's choice of algorithms, TF32 and bfloat16 autocast, and torch.compile on
request.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class PreActivationBlock(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x))))))."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.shortcut = None
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = functional.relu(self.bn1(x), inplace=True)
        y = self.conv2(functional.relu(self.bn2(self.conv1(activated)), inplace=True))
        return y + (x if self.shortcut is None else self.shortcut(activated))


class PreActResNet18(nn.Module):
    """The network of `bat_jax.models.create("preact_resnet18", 10)`."""

    def __init__(self, width: int, channels: int, *, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        blocks, channels_in = [], width
        for multiple, first_stride in ((1, 1), (2, 2), (4, 2), (8, 2)):
            for stride in (first_stride, 1):
                blocks.append(PreActivationBlock(channels_in, multiple * width, stride))
                channels_in = multiple * width
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(channels_in)
        self.head = nn.Linear(channels_in, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.stem((images - 0.5) / 0.5))
        return self.head(functional.relu(self.bn(x), inplace=True).mean((2, 3)))


class Block(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x))))))."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


class ResNet18(nn.Module):
    """As `bat_jax.models.create("resnet18", classes)`; `bat_jax.interop` writes its tensors."""

    def __init__(
        self,
        width: int,
        channels: int,
        *,
        classes: int = 10,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels_in = width
        for number, (multiple, stride) in enumerate(((1, 1), (2, 2), (4, 2), (8, 2)), start=1):
            stage = [Block(channels_in, multiple * width, stride)]
            channels_in = multiple * width
            stage.append(Block(channels_in, channels_in, 1))
            setattr(self, f"layer{number}", nn.Sequential(*stage))
        self.linear = nn.Linear(channels_in, classes)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1((images - self.mean) / self.std)), inplace=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean((2, 3)))


class SmallCNN(nn.Module):
    """The network of `bat_jax.models.create("small_cnn", 10)`, for 28x28 images."""

    def __init__(self, width: int, channels: int, *, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, 2, 1)
        self.dense = nn.Linear(7 * 7 * 4 * width, 8 * width)
        self.head = nn.Linear(8 * width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = (images - 0.5) / 0.5
        for convolution in (self.conv1, self.conv2, self.conv3):
            x = functional.relu(convolution(x), inplace=True)
        return self.head(
            functional.relu(self.dense(x.permute(0, 2, 3, 1).flatten(1)), inplace=True)
        )


_NETWORKS = {"small_cnn": SmallCNN, "resnet18": ResNet18, "preact_resnet18": PreActResNet18}


def prepare(
    case: dict[str, Any], *, device: str = "cpu", compiled: bool = False
) -> Callable[[], None]:
    """Returns a function that takes one step of PGD adversarial training.

    Args:
      case: model, width, batch, shape, steps of the attack, dtype, and classes if not 10.
      device: `cpu` or `cuda`; on the latter a step ends before the device has taken it.
      compiled: whether torch.compile makes the network's programs.
    """
    torch.manual_seed(0)
    if device == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    else:
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    height, width, channels = case["shape"]
    classes = case.get("classes", 10)
    model = _NETWORKS[case["model"]](case["width"], channels, classes=classes)
    model = model.to(device, memory_format=torch.channels_last)
    forward = torch.compile(model) if compiled else model
    # On CPU, as its default is.
    fused = {"fused": True} if device == "cuda" else {}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, **fused)
    images = torch.rand(case["batch"], channels, height, width).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(classes, (case["batch"],)).to(device)
    epsilon, step_size = 8 / 255, 2 / 255
    autocast = torch.autocast(device, torch.bfloat16, enabled=case["dtype"] == "bfloat16")

    def loss_of(x: torch.Tensor) -> torch.Tensor:
        with autocast:
            logits = forward(x)
        return functional.cross_entropy(logits.float(), labels)

    def take() -> None:
        model.eval()
        model.requires_grad_(False)
        low, high = (images - epsilon).clamp(0, 1), (images + epsilon).clamp(0, 1)
        x = (images + torch.empty_like(images).uniform_(-epsilon, epsilon)).clamp(0, 1)
        for _ in range(case["steps"]):
            x.requires_grad_(True)
            (gradient,) = torch.autograd.grad(loss_of(x), x)
            with torch.no_grad():
                x = torch.clamp(x + step_size * gradient.sign(), low, high)
        model.train()
        model.requires_grad_(True)
        optimizer.zero_grad(set_to_none=True)
        loss_of(x).backward()
        optimizer.step()

    return take
