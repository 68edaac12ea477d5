"""The embeddings of an image, as pictures of how its masks came about."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from embedmask_jax.mask_readout import (
  mask_pixels,
  mask_stride,
  resize_grid,
  resize_weights,
)
from embedmask_jax.ops.masks import OUTSIDE_LOG_PROBABILITY, mask_log_probability
from embedmask_jax.presets import Preset
from embedmask_jax.structures import Array

# Shares of the pixels, in per cent, between which a colour goes from dark to full.
_DARKEST, _BRIGHTEST = 1, 99


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddingView:
  """What the masks of a `Prediction` were read from, its n instances in their order.

  Attributes:
    pixel: float32 [rows, columns, D], the pixel embedding at stride 8.
    proposal: float32 [n, D], the proposal embedding of every instance.
    margin: float32 [n, M], positive.
    image_size: int32 [2], height and width of the resized image in network pixels.
    valid_size: int32 [2], the area that the network saw, network pixels.
    preset: how masks are read.
    mask_threshold: a pixel belongs to a mask where p is above it.
  """

  pixel: np.ndarray
  proposal: np.ndarray
  margin: np.ndarray
  image_size: np.ndarray
  valid_size: np.ndarray
  preset: Preset
  mask_threshold: float

  def log_probability(self, index: int, size: tuple[int, int]) -> np.ndarray:
    """How near every pixel is to an instance in the space of the embedding.

    It is the method's own measure, minus the squared distance times the margin, over
    the whole image: masks are read from it inside a window around their box. Resized
    as masks are, so that at the size of the original image the mask is where it
    exceeds log of `mask_threshold`, inside that window.

    Args:
      index: of the instance.
      size: (height, width) of the result, which shows the whole image.

    Returns:
      float32 [height, width], log p, from `OUTSIDE_LOG_PROBABILITY` to 0.
    """
    one = slice(index, index + 1)
    found = _log_probability(
      self.pixel,
      self.proposal[one],
      self.margin[one],
      self.image_size,
      self.valid_size,
      preset=self.preset,
      size=size,
    )
    return np.asarray(found)

  def colours(self, size: tuple[int, int]) -> np.ndarray:
    """The pixel embedding as colours: alike where pixels are alike.

    Red, green and blue are the first three principal components over the image, each
    stretched. Dimensions that carry coordinates are left out: they would show little
    but where a pixel lies.

    Args:
      size: see `log_probability`.

    Returns:
      uint8 [height, width, 3].
    """
    inside = -(-self.image_size // 8)
    features = self.pixel[..., self.preset.spatial_dims :]
    components = principal_components(features, tuple(inside))
    grid = _resized(
      components, self.image_size, self.valid_size, preset=self.preset, size=size
    )
    return np.rint(255 * np.clip(grid, 0, 1)).astype(np.uint8)


def principal_components(features: np.ndarray, inside: tuple[int, int]) -> np.ndarray:
  """The first three principal components, stretched to 0..1.

  The sign of a component is that in which its largest coefficient is positive.

  Args:
    features: float32 [rows, columns, D].
    inside: rows and columns that count; the rest only follows.

  Returns:
    float32 [rows, columns, 3]; 0.5 for components that there are not.
  """
  known = features[: inside[0], : inside[1]].reshape(-1, features.shape[-1])
  known = known.astype(np.float64)
  mean = known.mean(axis=0)
  covariance = np.cov((known - mean).T, bias=True)
  values, vectors = np.linalg.eigh(np.atleast_2d(covariance))
  best = np.argsort(values)[::-1][:3]
  axes = vectors[:, best]
  axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(best))])
  projected = (features - mean) @ axes
  low, high = np.percentile((known - mean) @ axes, (_DARKEST, _BRIGHTEST), axis=0)
  spread = np.where(high - low > 1e-6, high - low, 1)
  found = np.full((*features.shape[:2], 3), 0.5, np.float32)
  found[..., : len(best)] = np.where(high - low > 1e-6, (projected - low) / spread, 0.5)
  return found


@partial(jax.jit, static_argnames=('preset', 'size'))
def _log_probability(
  pixel: Array,
  proposal: Array,
  margin: Array,
  image_size: Array,
  valid_size: Array,
  *,
  preset: Preset,
  size: tuple[int, int],
) -> Array:
  [pixels] = mask_pixels(pixel[None], valid_size[None], preset)
  log_p = mask_log_probability(
    pixels, proposal, margin, spatial_dims=preset.spatial_dims
  )
  is_log = preset.read_out == 'log_probability'
  original_size = jnp.asarray(size)
  stride = mask_stride(preset)
  weights = resize_weights(
    pixels.shape[:2], size, image_size, valid_size, original_size, stride=stride
  )
  [resized] = resize_grid(log_p if is_log else jnp.exp(log_p), *weights)
  if not is_log:
    resized = jnp.log(jnp.maximum(resized, jnp.exp(OUTSIDE_LOG_PROBABILITY)))
  return jnp.maximum(resized, OUTSIDE_LOG_PROBABILITY)


@partial(jax.jit, static_argnames=('preset', 'size'))
def _resized(
  components: Array,
  image_size: Array,
  valid_size: Array,
  *,
  preset: Preset,
  size: tuple[int, int],
) -> Array:
  """Brings [rows, columns, 3] at stride 8 to [*size, 3] by way of the masks' grid."""
  [pixels] = mask_pixels(components[None], valid_size[None], preset)
  stride = mask_stride(preset)
  weights = resize_weights(
    pixels.shape[:2], size, image_size, valid_size, jnp.asarray(size), stride=stride
  )
  resized = resize_grid(jnp.moveaxis(pixels, -1, 0), *weights)
  return jnp.moveaxis(resized, 0, -1)
