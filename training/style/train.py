"""Train the style network with a perceptual loss on VGG19: `reverie train style`, `make train-style`.

The loss has the parts of the book's objective (section 12.3): content, here at block4_conv2, Gram matrices
at the five style layers, total variation. The card in `model_repository/style` states what the shipped run reached.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops
from PIL import Image

from synthesis import features, images
from synthesis.losses import gram_matrix, relative_error
from training import loop
from training.photos import Photos
from training.runs import Run
from training.style.network import StyleNetwork, StyleNetworkConfig, build

KIND = "style"
STYLE_LAYERS = features.defaults("vgg19").style_layers
CONTENT_LAYER = "block4_conv2"


@dataclass(frozen=True)
class StyleTraining:
    """What a run is asked to do.

    Attributes:
        network: the shape, and the names of the styles.
        size: side of the training crops; `style_size`: longer side of the paintings, which sets the
            scale of the strokes. Both in pixels.
        content_weight, style_weight, total_variation_weight: of the three losses (see `PerceptualLoss`).
        features: extractor that measures the loss, "vgg19" or, about six times faster, "compact".
    """

    network: StyleNetworkConfig
    steps: int = 4_000
    batch_size: int = 4
    size: int = 128
    style_size: int = 384
    learning_rate: float = 2e-3
    content_weight: float = 1.0
    style_weight: float = 8.0
    total_variation_weight: float = 2.0
    features: str = "vgg19"
    precision: str = "float32"
    seed: int = 1

    @classmethod
    def from_dict(cls, data: dict) -> StyleTraining:
        """Inverse of `dataclasses.asdict`, for a run's config.json."""
        known = {k: v for k, v in data.items() if k in cls.__dataclass_fields__}
        known["network"] = StyleNetworkConfig(**known["network"])
        return cls(**known)


class PerceptualLoss:
    """Content, style and smoothness of restyled pictures.

    The first two are relative errors (see `synthesis.losses.relative_error`), each layer counting alike:
    with plain sums one layer's Gram matrix outweighs the other four a hundredfold, and a short training
    learns nothing else.
    """

    def __init__(self, config: StyleTraining, paintings: list[np.ndarray]):
        content_layer = (
            CONTENT_LAYER if config.features == "vgg19" else features.defaults(config.features).content_layer
        )
        self.config = config
        self.extract = features.load(config.features, [*STYLE_LAYERS, content_layer])
        self.targets = _style_targets(self.extract, paintings)

    def __call__(self, stylized, image, style_weights):
        """Scalar loss; images are float (batch, height, width, 3) in [0, 255]."""
        content, style, variation = self.parts(stylized, image, style_weights)
        config = self.config
        return config.content_weight * content + config.style_weight * style + config.total_variation_weight * variation

    def parts(self, stylized, image, style_weights):
        """The three losses without their weights."""
        *style, content = self.extract(stylized)
        wanted = ops.stop_gradient(self.extract(image)[-1])
        return relative_error(content, wanted), self._style(style, style_weights), _total_variation(stylized)

    def _style(self, activations, style_weights):
        errors = []
        for activation, targets in zip(activations, self.targets, strict=True):
            wanted = ops.einsum("bs,scd->bcd", ops.cast(style_weights, "float32"), targets)
            errors.append(relative_error(_mean_gram(activation), wanted))
        return sum(errors) / len(errors)


def _mean_gram(activation):
    """The Gram matrix per position, so that pictures of different sizes compare."""
    _, height, width, _ = ops.shape(activation)
    return gram_matrix(activation) / ops.cast(height * width, "float32")


def _style_targets(extract, paintings: list[np.ndarray]) -> list[np.ndarray]:
    """For each style layer the Gram matrices of all paintings: float32 (styles, channels, channels)."""
    grams = [[ops.convert_to_numpy(_mean_gram(a)) for a in extract(p[None].astype(np.float32))[:-1]] for p in paintings]
    return [np.concatenate(layer) for layer in zip(*grams, strict=True)]


def _total_variation(image):
    """Mean squared difference of neighbours, pixels in [0, 1]."""
    scaled = image / 255.0
    down, right = scaled[:, 1:] - scaled[:, :-1], scaled[:, :, 1:] - scaled[:, :, :-1]
    return ops.mean(ops.square(down)) + ops.mean(ops.square(right))


class StyleTrainer(keras.Model):
    """The network with its loss; inputs are `(image, style_weights)`, targets are not used."""

    def __init__(self, network: StyleNetwork, loss: PerceptualLoss):
        super().__init__()
        self.network = network
        self.measure = lambda *args: loss(*args)

    def call(self, inputs):
        return self.network(inputs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        image, style_weights = x
        return self.measure(y_pred, image, style_weights)


def train(
    config: StyleTraining, paintings: Mapping[str, Path], photos: Photos, path: Path | None, schedule: loop.Schedule
) -> Run:
    """Train or resume a run; writes weights, sample pictures and the loss on held-out photos."""
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)
    kept, held_out = photos.split(min(12, len(photos.paths) // 2))
    loss = PerceptualLoss(config, [images.fit_within(images.read(p), config.style_size) for p in paintings.values()])
    model = StyleTrainer(build(config.network), loss)
    rate = loop.warmup_cosine(config.learning_rate, config.steps, warmup=50)
    model.compile(optimizer=keras.optimizers.Adam(rate), jit_compile=keras.backend.backend() == "jax")
    model((np.zeros((1, 16, 16, 3), np.float32), np.eye(len(paintings), dtype=np.float32)[:1]))
    run = Run.create(KIND, asdict(config), path)
    if run.finished:
        return run
    final = loop.fit(
        run,
        model,
        lambda step: (batch_of(kept, config, step),),
        schedule,
        on_sample=lambda step: write_samples(run, model.network, held_out, step),
    )
    model.network.save_weights(run.weights)
    run.finish({"loss": final, "held_out_loss": held_out_loss(model, held_out, config), "steps": schedule.steps})
    return run


def batch_of(photos: Photos, config: StyleTraining, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops and, for each, one style drawn at random: float32 (batch, size, size, 3) and (batch, styles)."""
    crops = photos.crops(step, config.batch_size, config.size, config.seed)
    styles = np.random.default_rng((config.seed, step, 2)).integers(len(config.network.styles), size=config.batch_size)
    return crops, np.eye(len(config.network.styles), dtype=np.float32)[styles]


def held_out_loss(model: StyleTrainer, photos: Photos, config: StyleTraining) -> float:
    """Mean loss over one fixed crop of each held-out photo in every style."""
    losses = []
    for style in np.eye(len(config.network.styles), dtype=np.float32):
        for crop in photos.one_crop_each(2 * config.size):
            losses.append(float(model.measure(model.network((crop, style[None])), crop, style[None])))
    return float(np.mean(losses))


def write_samples(run: Run, network: StyleNetwork, photos: Photos, step: int) -> None:
    """A sheet of four held-out photos (rows) in every style (columns)."""
    styles = np.eye(len(network.config.styles), dtype=np.float32)
    rows = []
    for photo in itertools.islice(photos.one_crop_each(256), 4):
        restyled = [ops.convert_to_numpy(network((photo, style[None])))[0] for style in styles]
        rows.append(np.concatenate([photo[0], *restyled], axis=1))
    Image.fromarray(images.to_uint8(np.concatenate(rows))).save(run.samples / f"step_{step:06d}.jpg", quality=90)


def load(run: Run) -> StyleNetwork:
    """The finished network of `run`, in float32."""
    keras.config.set_dtype_policy("float32")
    network = build(StyleTraining.from_dict(run.config).network)
    network.load_weights(run.weights)
    return network
