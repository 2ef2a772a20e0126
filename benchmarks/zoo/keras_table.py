"""Keras networks exported through torch (Keras on its torch backend): every layer keeps its transposes."""

from typing import Any

from row import Row


def channels_last(target: str, shape: str, opset: int = 15, **options: Any) -> Row:
    """Row of one network of nets/channels_last.py or keras.applications."""
    return Row(
        f"keras-{target.lower()}", "keras", f"keras:{target}", (f"image:float[{shape}]",), opset=opset, options=options
    )


PIXELS = "1,64,64,3"
ROWS: list[Row] = [
    channels_last("MobileNetV2", PIXELS, alpha=0.35),
    channels_last("MobileNet", PIXELS, 13, alpha=0.25),
    channels_last("MobileNetV3Small", PIXELS, 14),
    channels_last("EfficientNetV2B0", PIXELS),
    channels_last("DenseNet121", PIXELS),
    channels_last("unet", "batch=1,32,32,3", 17),
    channels_last("flatten_dense", "1,28,28,1", 11),
    channels_last("attention", "1,12,16", 17),
    channels_last("signal", "1,40,6", 17),
]
