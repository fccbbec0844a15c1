"""Image classifiers of Hugging Face's transformers, by their `model_type`, without a download.

Only what stands in a table here is built, from numbers and words; no code of a folder is run.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor, nn

from ..core.errors import ParameterError, UnknownNameError

FAMILIES = {
    "vit": "ViT",
    "resnet": "ResNet",
    "convnext": "ConvNext",
    "convnextv2": "ConvNextV2",
    "swin": "Swin",
    "swinv2": "Swinv2",
}
"""`model_type` -> what the classes of its configuration and its classifier begin with."""

SHARED = ("num_channels", "hidden_act", "layer_norm_eps", "initializer_range")
TOKENS = ("image_size", "patch_size", "qkv_bias", "hidden_dropout_prob")
FIELDS = {
    "vit": (
        *(*SHARED, *TOKENS, "attention_probs_dropout_prob", "hidden_size", "intermediate_size"),
        *("num_hidden_layers", "num_attention_heads"),
    ),
    "resnet": (
        *("num_channels", "hidden_act", "embedding_size", "hidden_sizes", "depths"),
        *("layer_type", "downsample_in_first_stage", "downsample_in_bottleneck"),
    ),
    "convnext": (
        *(*SHARED, "patch_size", "num_stages", "hidden_sizes", "depths", "image_size"),
        *("layer_scale_init_value", "drop_path_rate"),
    ),
    "swin": (
        *(*SHARED, *TOKENS, "attention_probs_dropout_prob", "embed_dim", "depths", "num_heads"),
        *("window_size", "mlp_ratio", "drop_path_rate", "use_absolute_embeddings"),
    ),
}
FIELDS["convnextv2"] = FIELDS["convnext"]
FIELDS["swinv2"] = (*FIELDS["swin"], "pretrained_window_sizes")
"""What a configuration may say of a network; all else in it is left alone."""

ACTS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish", "tanh")


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError:
        raise ParameterError(
            "networks of transformers need it installed: pip install 'unbackdoor[hub]'"
        ) from None
    found: ModuleType = transformers
    return found


def options(name: str) -> tuple[str, ...]:
    """What can be set; raises `UnknownNameError` for a `model_type` that is not known here."""
    if name not in FIELDS:
        known = [f"transformers:{family}" for family in FAMILIES]
        raise UnknownNameError.of("architecture", f"transformers:{name}", known)
    return FIELDS[name]


def build(name: str, classes: int, given: dict[str, Any]) -> nn.Module:
    """The classifier with fresh weights."""
    if given.get("hidden_act", "gelu") not in ACTS:
        raise UnknownNameError.of("hidden_act", str(given["hidden_act"]), ACTS)
    library, family = _transformers(), FAMILIES[name]
    config = getattr(library, f"{family}Config")(num_labels=classes, **given)
    net: nn.Module = getattr(library, f"{family}ForImageClassification")(config)
    if name == "vit":  # takes no other size
        net.image_size = config.image_size
    return net


def stored_names(net: Any) -> dict[str, str]:
    """The names of `net`'s tensors -> those that transformers writes into files; often the same.

    Since its version 5 the library renames some on their way to a file and back.
    """
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        return {}
    state: dict[str, Tensor] = net.state_dict(keep_vars=True)
    names = {id(tensor): name for name, tensor in state.items()}
    written: dict[str, Tensor] = revert_weight_conversion(net, dict(state))
    found = {names[id(tensor)]: name for name, tensor in written.items() if id(tensor) in names}
    return found if len(found) == len(state) else {}
