"""A task and a victim that every defense handles in a blink."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from unbackdoor.core.images import Images


def task(n=80, channels=1, classes=2, seed=0):
    """Images as bright as their class, and a small net that tells most of them apart."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    noise = torch.randint(0, 100, (n, channels, 8, 8), generator=rng)
    pixels = noise + (labels * (155 // max(1, classes - 1))).view(-1, 1, 1, 1)
    images = Images(pixels.to(torch.uint8), labels, tuple(map(str, range(classes))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(channels, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        for x, y in images.batches(40):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    return images, net.eval()


def with_noisy_channel(net, channel=7, loudness=4.0):
    """`net` with one channel of its second norm that answers noise, and is loud in the head."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        kernel = torch.randn(net[3].weight.shape[1:], generator=rng)
        net[3].weight[channel] = kernel - kernel.mean((1, 2), keepdim=True)
        net[8].weight[:, channel] = loudness * (torch.arange(len(net[8].weight)) % 2 * 2.0 - 1)
    return net


def backdoored(n=80, classes=2, seed=0):
    """Images as bright as their class but for a dark corner, and a net with a backdoor there.

    The net is linear and right on all of them; a white corner sends every image to class 1.
    """
    images, _ = task(n, classes=classes, seed=seed)
    images.pixels[:, :, :2, :2] = 0
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    levels = torch.arange(classes) / max(1, classes - 1) * 155 / 255
    levels = levels + 50 / 255
    bright = torch.ones(8, 8)
    bright[:2, :2] = 0
    with torch.no_grad():
        # The logit of a class falls with the distance of the mean brightness from its level.
        sharpness = 20.0 * classes
        net[1].weight.copy_(sharpness * 2 * levels.view(-1, 1) * bright.flatten() / 60)
        net[1].bias.copy_(-sharpness * levels.square())
        net[1].weight[1, (1 - bright).flatten().bool()] += 3.0 * classes
    return images, net.eval()


def stamped(images):
    """The images of all classes but 1 with a white corner."""
    kept = images[images.labels != 1]
    pixels = kept.pixels.clone()
    pixels[:, :, :2, :2] = 255
    return Images(pixels, kept.labels, kept.classes)


def rate(net, images, label=None):
    """The share of `images` that go to `label`; to their own label without one."""
    with torch.no_grad():
        predicted = net.eval()(images.pixels / 255).argmax(1)
    return (predicted == (images.labels if label is None else label)).float().mean().item()


def noisy_net(act: type[nn.Module] = nn.ReLU) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), act()),
            *(nn.Conv2d(6, 9, 3, padding=1), act()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 3)),
        )
        for tensor in (*model[1].parameters(), model[1].running_mean):
            tensor.data.normal_()
    return model.eval()


def noise(n: int = 24) -> Images:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, 8, 8), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % 3, ("a", "b", "c"))
