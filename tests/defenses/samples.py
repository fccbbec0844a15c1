"""A task and a victim that every defense handles in a blink."""

import torch
from torch import nn
from torch.nn import functional as F

from unbackdoor.images import Images


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
