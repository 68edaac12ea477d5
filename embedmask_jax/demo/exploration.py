"""What is kept of a visitor's image between the network and the pictures."""

import dataclasses

from embedmask_jax.predict.embedding_view import EmbeddingView
from embedmask_jax.predict.prediction import Prediction

# What the network keeps; the slider goes no lower.
LOWEST_SCORE = 0.05
DEFAULT_SCORE = 0.3


@dataclasses.dataclass(frozen=True, eq=False)
class Exploration:
  """An image that the network has seen, and how it is looked at.

  Attributes:
    name: of the image's file.
    prediction: everything from `LOWEST_SCORE` on.
    view: the embeddings of its instances.
    score: smallest score of what is shown.
    chosen: index of the one instance that is looked at, or None.
  """

  name: str
  prediction: Prediction
  view: EmbeddingView
  score: float = DEFAULT_SCORE
  chosen: int | None = None

  @property
  def shown(self) -> Prediction:
    """The instances with at least the score; they keep their numbers."""
    return self.prediction.above(self.score)

  def at_score(self, score: float) -> 'Exploration':
    """With another score; the chosen instance stays if it is still shown."""
    moved = dataclasses.replace(self, score=score)
    return moved.choosing(self.chosen)

  def choosing(self, index: int | None) -> 'Exploration':
    """With another instance chosen; none where `index` is not one that is shown."""
    is_shown = index is not None and 0 <= index < len(self.shown)
    return dataclasses.replace(self, chosen=index if is_shown else None)

  def at(self, x: int, y: int) -> int | None:
    """Index of the instance shown at a pixel of the image; None where there is none.

    Where masks overlap it is the best, which is drawn on top.
    """
    for index, window in enumerate(self.shown.windows):
      row, column = y - window.top, x - window.left
      rows, columns = window.pixels.shape
      if 0 <= row < rows and 0 <= column < columns and window.pixels[row, column]:
        return index
    return None

  def rows(self) -> list[list]:
    """Number, class, score, area and box of every instance shown.

    The numbers, from 1, are those of the label map; lengths are pixels of the image,
    and a box is the text 'x,y,width,height'.
    """
    shown = self.shown
    found = []
    for number, result in enumerate(shown.to_coco(), start=1):
      box = ','.join(f'{side:.0f}' for side in result['bbox'])
      name, score = result['category_name'], round(result['score'], 3)
      found.append([number, name, score, shown.windows[number - 1].area, box])
    return found
