"""Which networks, triggers and strangers of the proving ground stay closed: drawn, not chosen.

    python benchmarks/proving_ground.py

A member of every stratum is drawn by a hash of the stratum's name, before anything was measured on
any of them. A victim is closed if its network or its trigger is. Only the standard library.
"""

from __future__ import annotations

import hashlib

SEED = "unbackdoor proving ground, first edition"

STRATA = {
    "networks": {
        # Two of a kind each, so that every kind of network is on both sides.
        "residual": ("cifar_resnet depth=20", "cifar_resnet depth=56"),
        "plain": ("small_vgg", "all_cnn"),
        "light": ("cifar_mobilenet_v2", "densenet_bc"),
        "modern": ("timm:convnext_atto", "timm:vit_tiny_patch16_224"),
    },
    "triggers": {
        # New kinds. `batt` (a rotation) had been measured once and is open; so are the older ones.
        "whole image": ("photo_filter", "coarse"),
        "object": ("sticker", "multi_target"),
        "labels": ("semantic", "badnets sources"),
        "adaptive": ("adaptive_consistent", "adaptive_flat", "grond"),
    },
    "triggers on GTSRB": {
        # Added later, before anything was planted there. Of each three one is open.
        "pictures": ("blended", "refool", "sig"),
        "labels kept": ("ctrl", "label_consistent", "narcissus"),
        "each image another": ("wanet", "bpp", "lf"),
        "faint": ("ftrojan", "ssba", "trojannn"),
        "few images": ("adaptive_blend", "adaptive_patch", "blind"),
        "learned": ("lira", "input_aware", "grond"),
    },
    "small networks": {
        # Added later, before anything was planted in them: cheap enough for any machine.
        "small residual": ("cifar_resnet depth=8", "wide_resnet"),
        "mobile": ("timm:mobilenetv3_small_050", "timm:lcnet_050"),
        "grouped": ("timm:regnety_002", "timm:ghostnet_050"),
        "of many paths": ("timm:edgenext_xx_small", "timm:dla46_c"),
    },
    "strangers": {
        # The other three had been repaired before and are open.
        "small VGG": ("smallvgg-gtsrb-watermark",),
        "toy networks": ("badnet-cifar10-square", "simplecnn-cifar10-checker"),
    },
}


def drawn(stratum: str, members: tuple[str, ...]) -> str:
    """The member of a stratum that its hash names."""
    digest = hashlib.sha256(f"{SEED}/{stratum}".encode()).digest()
    return members[int.from_bytes(digest[:8], "big") % len(members)]


def closed() -> dict[str, list[str]]:
    """What is closed of each kind: of three triggers on GTSRB two, of every other stratum one."""
    found: dict[str, list[str]] = {}
    for kind, strata in STRATA.items():
        found[kind] = []
        for stratum, members in strata.items():
            one = drawn(stratum, members)
            two = kind == "triggers on GTSRB"
            found[kind] += [member for member in members if (member == one) != two]
    return found


if __name__ == "__main__":
    for kind, members in closed().items():
        print(f"closed {kind}: {', '.join(members)}")
