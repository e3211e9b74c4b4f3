"""Published networks to compare with, and what they cost."""

from __future__ import annotations

import pandas as pd
import torchvision

from nas.networks.architecture import Architecture, family_names

SERIES = {"efficientnet_b": "EfficientNet B0–B7", "efficientnet_v2_": "EfficientNetV2"}
RESNETS = (18, 34, 50, 101, 152)


def published() -> pd.DataFrame:
    """The bundled families as counted here, and ResNets as torchvision counts them: name, series, costs."""
    rows = []
    for name in family_names():
        for prefix, series in SERIES.items():
            if name.startswith(prefix):
                cost = Architecture.load(name).cost()
                label = name.removeprefix("efficientnet_").replace("_", "-").upper()
                rows.append({"name": label, "series": series, "madds": cost.madds, "params": cost.params})
    for layers in RESNETS:
        known = torchvision.models.get_model_weights(f"resnet{layers}").IMAGENET1K_V1.meta
        costs = {"madds": round(known["_ops"] * 1e9), "params": known["num_params"]}
        rows.append({"name": f"ResNet-{layers}", "series": "ResNet (224 px)", **costs})
    return pd.DataFrame(rows)
