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
    proposals: which of an instance's locations its mask is learnt from. `best`: the
      one whose predicted box overlaps the instance most; `mean`: the mean of those
      that overlap it well.
    has_stride_slip: `mean` takes the regression for pixels, though it is in strides,
      as the code released with the paper did.
    counts_unmatched: the mask loss of an image is divided by all its instances
      rather than those that have a location.
    crop_growth: the mask loss counts the cells of the instance's box, grown by this
      part of its sides and a cell; all cells where None.
    min_probability: lower bound of p in the mask loss, below which it has no
      gradient.
    mask_weight: factor of the mask loss.
    smooth_weight: factor of the loss that draws an instance's proposals together;
      0: there is none.
    read_out: what is resized and thresholded at test. `log_probability`, -10
      outside the box and two cells around it; `probability`, 0 outside the box and
      one cell around it.
  """

  spatial_dims: int = 2
  has_position_scale: bool = True
  margin: Literal['per_dimension', 'scalar', 'from_box'] = 'per_dimension'
  proposals: Literal['best', 'mean'] = 'best'
  has_stride_slip: bool = False
  counts_unmatched: bool = False
  crop_growth: float | None = None
  min_probability: float = 1e-9
  mask_weight: float = 0.5
  smooth_weight: float = 0.0
  read_out: Literal['log_probability', 'probability'] = 'log_probability'


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

PRESETS: Mapping[str, Preset] = {
  '2019': _V2019,
  # What the code released with the paper does rather than what the paper says.
  '2019_released': dataclasses.replace(_V2019, has_stride_slip=True),
  '2020': _V2020,
  '2021': _V2021,
}
