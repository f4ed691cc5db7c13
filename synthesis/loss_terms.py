"""Losses that add up: `objective = 2.5e-8 * ContentLoss("block5_conv2", target) + StyleLoss(...) + TotalVariation()`.

A term knows which layers it needs, and computes one number for each image from the activations of these layers.
A sum of weighted terms is an objective. Formulas are in `synthesis.losses`. Knows nothing about networks or optimizers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from keras import ops

from synthesis.losses import content_loss, gram_matrix, style_loss, total_variation

Activations = Mapping[str, Any]
"""The activations of an image batch by layer name: float (batch, height, width, channels)."""


class Loss(ABC):
    """An objective, or a part of one: `weight * loss` and `loss + loss` are losses too."""

    __array_ufunc__ = None  # A NumPy number leaves the multiplication to `__rmul__`.

    @property
    @abstractmethod
    def weighted_terms(self) -> tuple[tuple[Any, Term], ...]:
        """The terms that this is the sum of, each with its weight."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that are needed, each once."""
        return tuple(dict.fromkeys(layer for _, term in self.weighted_terms for layer in term.term_layers))

    def __add__(self, other: Loss) -> Sum:
        return Sum((*self.weighted_terms, *other.weighted_terms))

    def __rmul__(self, weight: Any) -> Sum:
        return Sum(tuple((weight * own, term) for own, term in self.weighted_terms))

    def __call__(self, image: Any, activations: Activations) -> Any:
        """Return the loss of each image: float32 (batch,).

        Args:
            image: float (batch, height, width, 3), pixels in [0, 255].
            activations: of `image`, at least for `layers`.
        """
        return self.measure(image, activations).total

    def measure(self, image: Any, activations: Activations) -> Measured:
        """Return the value of every term; the arguments are those of a call."""
        return Measured(
            tuple((weight, term.name, term.value(image, activations)) for weight, term in self.weighted_terms)
        )


@dataclass(frozen=True, eq=False)
class Measured:
    """The terms of a loss at some images.

    Attributes:
        terms: weight, name and value of each; a value is float32 (batch,), and not weighted yet.
    """

    terms: tuple[tuple[Any, str, Any], ...]

    @property
    def total(self) -> Any:
        """The loss of each image: float32 (batch,)."""
        return sum(self.weighted)

    @property
    def weighted(self) -> list[Any]:
        """The value of each term times its weight."""
        return [weight * value for weight, _, value in self.terms]

    def __getitem__(self, name: str) -> Any:
        """Return the value, without its weight, of the term called `name`."""
        return next(value for _, found, value in self.terms if found == name)


@dataclass(frozen=True, eq=False)
class Sum(Loss):
    """Weighted terms; none make a loss of 0."""

    weighted_terms: tuple[tuple[Any, Term], ...] = ()

    @classmethod
    def of(cls, losses: Iterable[Loss]) -> Sum:
        """Return the sum of any number of losses."""
        return cls(tuple(pair for loss in losses for pair in loss.weighted_terms))


@dataclass(frozen=True, eq=False)
class Term(Loss):
    """One loss with a formula of its own."""

    kind: ClassVar[str]

    @property
    def weighted_terms(self) -> tuple[tuple[Any, Term], ...]:
        return ((1.0, self),)

    @property
    def term_layers(self) -> tuple[str, ...]:
        """The layers that the formula needs."""
        return ()

    @property
    def name(self) -> str:
        """The kind, and the layer if there is one: "style block1_conv1"."""
        return " ".join([self.kind, *self.term_layers])

    @abstractmethod
    def value(self, image: Any, activations: Activations) -> Any:
        """Return the loss of each image, float32 (batch,); the arguments are those of a call."""


@dataclass(frozen=True, eq=False)
class ContentLoss(Term):
    """Squared distance from a photograph's activations at one layer (listing 12-19).

    Attributes:
        target: float32, the activations to come close to; of the same shape as those of the image.
    """

    kind = "content"
    layer: str
    target: Any

    @property
    def term_layers(self) -> tuple[str, ...]:
        return (self.layer,)

    def value(self, image: Any, activations: Activations) -> Any:
        return content_loss(activations[self.layer], self.target)


@dataclass(frozen=True, eq=False)
class StyleLoss(Term):
    """Squared distance from a painting's Gram matrices at one layer (listing 12-20).

    Attributes:
        target: float32 (batch, channels, channels), the Gram matrices to come close to.
        masks: None; or, for a single image, float32 (regions, height, width, 1). Then `target` is
            (regions, channels, channels), and the loss is the sum over the regions.
    """

    kind = "style"
    layer: str
    target: Any
    masks: Any = None

    @property
    def term_layers(self) -> tuple[str, ...]:
        return (self.layer,)

    def value(self, image: Any, activations: Activations) -> Any:
        _, height, width, _ = ops.shape(image)
        pixels = ops.cast(height * width, "float32")
        activation = activations[self.layer]
        if self.masks is None:
            return style_loss(gram_matrix(activation), self.target, pixels)
        regions = gram_matrix(ops.cast(activation, "float32") * self.masks)
        return ops.sum(style_loss(regions, self.target, pixels), keepdims=True)


@dataclass(frozen=True, eq=False)
class TotalVariation(Term):
    """Differences between neighboring pixels, to the power 1.25 (listing 12-21)."""

    kind = "total_variation"

    def value(self, image: Any, activations: Activations) -> Any:
        return total_variation(image)
