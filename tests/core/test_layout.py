from __future__ import annotations

import pytest
import torch
from torch import nn

from unbackdoor.core.modules import fast_layout


@pytest.mark.parametrize(
    ("conv", "safe"),
    [
        (nn.Conv2d(8, 16, 1, stride=2), False),
        (nn.Conv2d(32, 64, 1, stride=2, groups=4), False),
        (nn.Conv2d(16, 32, 1, stride=2), True),
        (nn.Conv2d(8, 16, 1), True),
        (nn.Conv2d(8, 16, 3, stride=2), True),
    ],
)
def test_strided_pointwise_convolutions_of_few_channels_are_kept_from_channels_last(conv, safe):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), conv)
    wanted = torch.channels_last if safe else torch.contiguous_format
    assert fast_layout(model) is wanted
