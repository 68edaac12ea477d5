"""The generations of EmbedMask, and the parts that tell them apart.

All share one skeleton: ResNet, FPN, FCOS head, proposal and pixel embeddings, masks
by distance. What differs is chosen here, by name, and nowhere else; everything below
takes the fields it needs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Preset:
  """One choice for every part; the defaults are those of the IJCAI-21 version.

  Attributes:
    spatial_dims: leading embedding dimensions to which coordinates are added, 2 or 0.
    has_position_scale: whether those coordinates have a learnt factor.
    margin: `per_dimension` or `scalar`, from the box tower, or `from_box`, a scalar
      from the predicted box.
    has_stems: whether embedding and margin of a proposal have a 1x1 convolution each
      between them and the box tower.
    pixels: what pixel embeddings are made of. `mask_tower`: a tower on P3;
      `mask_branch`: P3 to P5 with live batch norm, and a semantic loss beside it.
    centre: the middle of an instance, around which locations are positive: that of
      its `box`, or the centroid of its `mask`.
    must_lie_on_mask: whether a positive location has to be on the instance's mask.
    box_extent: what the side of a box adds to the difference of its coordinates: 1
      where x2 is its last pixel, 0 where it is its edge.
    proposals: what the mask loss learns from. `best`: for each instance the location
      whose predicted box overlaps it most; `mean`: the mean of those that overlap it
      well; `all`: every positive location, up to 500 of a device's batch.
    has_stride_slip: `mean` takes the regression for pixels, though it is in strides,
      as the code released with the paper did.
    counts_unmatched: the mask loss of an image is divided by all its instances
      rather than those that have a location.
    crop_growth: the mask loss counts the cells of the instance's box, grown by this
      part of its sides and a cell; all cells where None.
    upsampled: what the mask loss brings from stride 8 to 4: the pixel `embedding`,
      or the `probability`.
    min_probability, max_probability: bounds of p in the mask loss, beyond which it
      has no gradient.
    box_loss: `giou`, 1 - GIoU, in all presets; `iou`, -log IoU, and `linear_iou`,
      1 - IoU, are the original's other choices.
    hull_epsilon: added to the hull's area in the GIoU loss.
    mask_weight: factor of the mask loss.
    smooth_weight: factor of the loss that draws an instance's proposals together;
      0: there is none.
    read_out: what is resized and thresholded at test. `log_probability`, -10
      outside the box and two cells around it; `probability`, 0 outside the box and
      one cell around it; `whole_probability`, wherever it is.
    has_root_score: whether a score is the square root of class times centerness,
      with the threshold on the product, and boxes are clipped after NMS.
    rounds_sizes: whether resized sides are rounded rather than truncated.
    polygon_dtype: in which polygons are resized before they are rasterised.
    mask_cell: the pixels of a stride-4 cell that turn it on: `any` of the four around
      its centre, or the lower right `one` of them.
  """

  spatial_dims: int = 2
  has_position_scale: bool = True
  margin: Literal['per_dimension', 'scalar', 'from_box'] = 'per_dimension'
  has_stems: bool = False
  pixels: Literal['mask_tower', 'mask_branch'] = 'mask_tower'
  centre: Literal['box', 'mask'] = 'box'
  must_lie_on_mask: bool = True
  box_extent: int = 1
  proposals: Literal['best', 'mean', 'all'] = 'best'
  has_stride_slip: bool = False
  counts_unmatched: bool = False
  crop_growth: float | None = None
  upsampled: Literal['embedding', 'probability'] = 'embedding'
  min_probability: float = 1e-9
  max_probability: float = 1 - 6e-8
  box_loss: Literal['giou', 'iou', 'linear_iou'] = 'giou'
  hull_epsilon: float = 1e-7
  mask_weight: float = 0.5
  smooth_weight: float = 0.0
  read_out: Literal['log_probability', 'probability', 'whole_probability'] = (
    'log_probability'
  )
  has_root_score: bool = False
  rounds_sizes: bool = False
  polygon_dtype: Literal['float32', 'float64'] = 'float32'
  mask_cell: Literal['any', 'one'] = 'any'


# The IJCAI-21 version.
_V2021 = Preset()
# The second release of the code, May 2020.
_V2020 = Preset(margin='scalar', crop_growth=0.1, read_out='probability')
# The arXiv paper of December 2019.
_V2019 = dataclasses.replace(
  _V2020,
  spatial_dims=0,
  has_position_scale=False,
  margin='from_box',
  proposals='mean',
  counts_unmatched=True,
  # No bound in the original; the smallest normal float32 keeps the loss finite.
  min_probability=1.2e-38,
  smooth_weight=0.1,
)

# The authors' version on AdelaiDet, May 2021.
_ADELAIDET = Preset(
  has_position_scale=False,
  has_stems=True,
  pixels='mask_branch',
  centre='mask',
  must_lie_on_mask=False,
  box_extent=0,
  proposals='all',
  upsampled='probability',
  min_probability=1e-6,
  max_probability=1 - 1e-6,
  hull_epsilon=0.0,
  mask_weight=1.0,
  read_out='whole_probability',
  has_root_score=True,
  rounds_sizes=True,
  polygon_dtype='float64',
  mask_cell='one',
)

PRESETS: Mapping[str, Preset] = {
  '2019': _V2019,
  # What the code released with the paper does rather than what the paper says.
  '2019_released': dataclasses.replace(_V2019, has_stride_slip=True),
  '2020': _V2020,
  '2021': _V2021,
  'adelaidet': _ADELAIDET,
}


def share_weights(one: str, other: str) -> bool:
  """Whether weights mean the same to two presets, which differ in training alone."""
  plain = [
    dataclasses.replace(PRESETS[name], has_stride_slip=False) for name in (one, other)
  ]
  return plain[0] == plain[1]
