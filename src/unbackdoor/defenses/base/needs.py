"""What a defense needs of its model and of the clean images, so that one can choose by it."""

from __future__ import annotations

from typing import Literal, get_args

Need = Literal["labels", "training", "norms", "batch_norms", "maps"]

NEEDS: dict[Need, str] = {
    "labels": "the true labels of the clean images",
    "training": "training: gradients, so minutes to hours without a GPU",
    "norms": "a model with norms",
    "batch_norms": "a model with batch norms",
    "maps": "feature maps behind the first layer, which vision transformers do not have",
}
assert set(NEEDS) == set(get_args(Need))
