"""The network as timm builds it: its arch_def and arguments as JSON, its weights under timm's names as safetensors."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from nas.base.errors import UserError
from nas.export.source import Answer, Source
from nas.networks.timm import to_arch_def

CROP_MODES = {"crop": "center", "pad": "border", "stretch": "squash"}


def write(source: Source, file: Path) -> None:
    """Write both files."""
    known = definition(source)
    file.with_suffix(".json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    # Both list the same layers in the order in which images pass them.
    names, tensors = build(known).state_dict().keys(), source.model.state_dict().values()
    save_file({name: tensor.contiguous() for name, tensor in zip(names, tensors, strict=True)}, file)


def load(file: Path) -> Answer:
    """The network as timm builds and loads it."""
    from timm.models import load_checkpoint

    model = build(json.loads(file.with_suffix(".json").read_text(encoding="utf-8")))
    load_checkpoint(model, str(file))
    return model.eval()


def definition(source: Source) -> dict[str, Any]:
    """All that timm needs to build the network; mean and std are of pixel values 0 to 1, as timm has them.

    Raises UserError for what timm cannot build.
    """
    arch, inputs = source.trained.architecture, source.inputs
    try:
        arch_def = to_arch_def(arch)
    except UserError as error:
        raise UserError(f"--to timm: {error}; or leave timm out") from None
    return {
        "arch_def": arch_def,
        "model": {
            "stem_size": arch.stem,
            "fix_stem": True,
            "num_features": arch.head,
            "num_classes": len(inputs.classes),
            "in_chans": inputs.channels,
            "act_layer": arch.activation,
        },
        "stem_stride": arch.stem_stride,
        "norm": {"eps": arch.norm_eps, "momentum": arch.norm_momentum},
        "pretrained_cfg": {
            "num_classes": len(inputs.classes),
            "label_names": inputs.classes,
            "input_size": (inputs.channels, inputs.image_size, inputs.image_size),
            "mean": [value / 255 for value in inputs.mean],
            "std": [value / 255 for value in inputs.std],
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": CROP_MODES[inputs.resize],
            "classifier": "classifier",
        },
    }


def build(known: dict[str, Any]) -> nn.Module:
    """The network of a definition, as timm's own functions build it, with random weights."""
    from timm.models import EfficientNet, build_model_with_cfg
    from timm.models.efficientnet import decode_arch_def

    model: nn.Module = build_model_with_cfg(
        EfficientNet,
        "compound_nas",
        pretrained=False,
        pretrained_cfg=known["pretrained_cfg"],
        block_args=decode_arch_def(known["arch_def"]),
        norm_layer=partial(nn.BatchNorm2d, **known["norm"]),
        round_chs_fn=lambda channels: channels,
        **known["model"],
    )
    stem = model.get_submodule("conv_stem")
    assert isinstance(stem, nn.Conv2d)
    stem.stride = (known.get("stem_stride", 2),) * 2  # timm has no argument for it
    return model
