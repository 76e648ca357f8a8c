"""The network of `network.py` in PyTorch: the same numbers, the same outputs."""

from typing import Any

import numpy as np
import torch
from network import KERNEL, SIDE, STRIDE, Layer


def module(theta: list[Layer]) -> torch.nn.Sequential:
    """The network with these weights; images have a channel axis: n by 1 by 28 by 28."""
    first, second, hidden, last = (np.shape(layer.weight) for layer in theta)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, first[1], KERNEL, STRIDE),
        torch.nn.Tanh(),
        torch.nn.Conv2d(first[1], second[1], KERNEL, STRIDE),
        torch.nn.Tanh(),
        torch.nn.Flatten(),
        torch.nn.Linear(*hidden),
        torch.nn.Tanh(),
        torch.nn.Linear(*last),
    )
    net.load_state_dict({name: torch.tensor(value) for name, value in state_dict(theta).items()})
    return net


def state_dict(theta: list[Layer]) -> dict[str, np.ndarray]:
    """Weights as PyTorch has them: outputs first, channels before rows and columns."""
    weights, biases = zip(*(map(np.asarray, layer) for layer in theta), strict=True)
    sides = (KERNEL, KERNEL, SIDE[-1])  # of patches, and of the image that the dense layers see
    turned = [
        weight.reshape(side, side, -1, weight.shape[1]).transpose(3, 2, 0, 1)
        for side, weight in zip(sides, weights[:3], strict=True)
    ]
    shaped = [turned[0], turned[1], turned[2].reshape(len(turned[2]), -1), weights[3].T]
    parts = zip((0, 2, 5, 7), shaped, biases, strict=True)
    return {
        f"{i}.{name}": np.array(value)
        for i, weight, bias in parts
        for name, value in (("weight", weight), ("bias", bias))
    }


def train(
    net: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    precision: float,
    *,
    epochs: int,
    steps: int,
    batch: int = 100,
) -> float:
    """Train a module where it is, by Adam and L-BFGS; returns the objective at the end."""
    entropy = torch.nn.CrossEntropyLoss(reduction="sum")
    n = len(labels)

    def prior() -> Any:
        return precision / 2 * sum((a * a).sum() for a in net.parameters())

    adam = torch.optim.Adam(net.parameters(), lr=1e-2)
    passes = epochs * (n // batch)
    falling = torch.optim.lr_scheduler.LambdaLR(adam, lambda k: 1 - k / passes)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(n, generator=generator).split(batch)[: n // batch]:
            adam.zero_grad()
            (entropy(net(images[rows]), labels[rows]) / batch + prior() / n).backward()
            adam.step()
            falling.step()

    every = {"max_iter": steps, "history_size": 30, "tolerance_change": 0.0}
    whole = torch.optim.LBFGS(net.parameters(), line_search_fn="strong_wolfe", **every)

    def closure() -> Any:
        whole.zero_grad()
        total = prior()
        total.backward()
        for x, y in zip(images.split(1000), labels.split(1000), strict=True):
            part = entropy(net(x), y)
            part.backward()
            total = total.detach() + part.detach()
        return total

    whole.step(closure)
    return float(closure())
