"""The PyTorch side of train_step.py: PGD adversarial training in idiomatic eager mode on CPU.

Tuned: channels_last memory, only input gradients and batch norm in evaluation mode in the attack,
`set_to_none` gradients, fused loops of torch.optim.SGD, one thread per core.
"""

import os
from collections.abc import Callable
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

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        blocks, channels_in = [], width
        for multiple, first_stride in ((1, 1), (2, 2), (4, 2), (8, 2)):
            for stride in (first_stride, 1):
                blocks.append(PreActivationBlock(channels_in, multiple * width, stride))
                channels_in = multiple * width
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(channels_in)
        self.head = nn.Linear(channels_in, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.stem((images - 0.5) / 0.5))
        return self.head(functional.relu(self.bn(x), inplace=True).mean((2, 3)))


class SmallCNN(nn.Module):
    """The network of `bat_jax.models.create("small_cnn", 10)`, for 28x28 images."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, 2, 1)
        self.dense = nn.Linear(7 * 7 * 4 * width, 8 * width)
        self.head = nn.Linear(8 * width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = (images - 0.5) / 0.5
        for convolution in (self.conv1, self.conv2, self.conv3):
            x = functional.relu(convolution(x), inplace=True)
        return self.head(
            functional.relu(self.dense(x.permute(0, 2, 3, 1).flatten(1)), inplace=True)
        )


def prepare(case: dict[str, Any]) -> Callable[[], None]:
    """Returns a function that takes one step of PGD adversarial training."""
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    height, width, channels = case["shape"]
    network = SmallCNN if case["model"] == "small_cnn" else PreActResNet18
    model = network(case["width"], channels).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    images = torch.rand(case["batch"], channels, height, width)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (case["batch"],))
    epsilon, step_size = 8 / 255, 2 / 255
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=case["dtype"] == "bfloat16")

    def loss_of(x: torch.Tensor) -> torch.Tensor:
        with autocast:
            logits = model(x)
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
