"""Keras networks, NHWC throughout, with seeded random weights; they run on whichever backend Keras was told to use."""

from typing import Any

import keras
import numpy as np
from keras import layers


def application(name: str, size: int = 64, **options: Any) -> keras.Model:
    """One of keras.applications for `size` pixels and ten classes."""
    return getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=10, **options)


def unet(width: int = 16) -> keras.Model:
    """Two-level U-Net: transposed convolutions, concatenation on the last axis."""
    image = layers.Input((32, 32, 3), name="image")
    top = layers.Conv2D(width, 3, padding="same", activation="relu")(image)
    middle = layers.Conv2D(2 * width, 3, padding="same", activation="relu")(layers.MaxPooling2D()(top))
    bottom = layers.BatchNormalization()(
        layers.Conv2D(4 * width, 3, padding="same", activation="swish")(layers.MaxPooling2D()(middle))
    )
    x = layers.Concatenate()([layers.Conv2DTranspose(2 * width, 2, 2)(bottom), middle])
    x = layers.Concatenate()([layers.UpSampling2D()(layers.Conv2D(width, 3, padding="same")(x)), top])
    return keras.Model(image, layers.Conv2D(2, 1, activation="softmax")(x))


def flatten_dense(width: int = 16) -> keras.Model:
    """Convolutions, then a flatten in NHWC order before the dense layers."""
    image = layers.Input((28, 28, 1), name="image")
    x = layers.MaxPooling2D()(layers.Conv2D(width, 5, activation="relu")(image))
    x = layers.SeparableConv2D(2 * width, 3, activation="relu", depth_multiplier=2)(x)
    x = layers.Dense(32, activation="relu")(layers.Flatten()(layers.AveragePooling2D(2)(x)))
    return keras.Model(image, layers.Dense(10)(x))


def attention(width: int = 48) -> keras.Model:
    """Two pre-norm encoder blocks with MultiHeadAttention."""
    tokens = layers.Input((12, 16), name="image")
    x = layers.Dense(width)(tokens)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, width // 4)(y, y)])
        y = layers.Dense(2 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(y)])
    return keras.Model(tokens, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


def signal(width: int = 24) -> keras.Model:
    """Causal 1-D convolutions with a sigmoid gate and a strided shortcut."""
    steps = layers.Input((40, 6), name="image")
    x = layers.Conv1D(width, 3, padding="causal", activation="relu")(steps)
    gate = layers.Conv1D(width, 3, padding="causal", dilation_rate=2, activation="sigmoid")(x)
    x = layers.Add()(
        [x, layers.Multiply()([layers.Conv1D(width, 3, padding="causal", dilation_rate=2, activation="tanh")(x), gate])]
    )
    return keras.Model(steps, layers.Dense(4)(layers.GlobalMaxPooling1D()(layers.Conv1D(width, 4, 2)(x))))


def recurrent(cell: str = "LSTM", width: int = 24) -> keras.Model:
    """One recurrent layer over all steps, one bidirectional layer, a dense head."""
    steps = layers.Input((12, 8), name="image")
    make = getattr(layers, cell)
    x = layers.Bidirectional(make(width))(make(width, return_sequences=True)(steps))
    return keras.Model(steps, layers.Dense(5)(x))


def _value(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if name in ("gamma", "moving_variance"):
        return random.uniform(0.5, 1.5, shape)
    if len(shape) < 2:
        return random.normal(0.0, 0.1, shape)
    fan_in = np.prod(shape[:-2] if shape[-1] == 1 or "depthwise" in name else shape[:-1])
    return random.normal(0.0, (1.5 / max(1, fan_in)) ** 0.5, shape)


def build(target: str, seed: int, **options: Any) -> keras.Model:
    """The network `target` of this file, or of keras.applications, with weights drawn from `seed`."""
    keras.utils.set_random_seed(seed)
    model = globals()[target](**options) if target in globals() else application(target, **options)
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if "seed" not in variable.path:
            variable.assign(_value(variable.name, tuple(variable.shape), random).astype(np.float32))
    return model
