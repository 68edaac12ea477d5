"""What a format of annotations is to the conversion, and what it hands over."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class LabelledObject:
  """An instance.

  Attributes:
    category: name.
    segmentation: COCO polygons in pixels of the image, or compressed run lengths.
    is_crowd: whether it is a region of many.
    parts: entries of the source that it was made of, usually one.
  """

  category: str
  segmentation: Any
  is_crowd: bool = False
  parts: int = 1


@dataclass(frozen=True)
class LabelledImage:
  """An image with all that its labels say.

  Attributes:
    file_name: relative to the image folder.
    height: pixels.
    width: pixels.
    objects: those that are kept.
    found: entries of the source, `parts` of `objects` and `skipped` together.
    skipped: what of the source is left out and why, an entry each.
  """

  file_name: str
  height: int
  width: int
  objects: Sequence[LabelledObject]
  found: int
  skipped: Sequence[str] = field(default_factory=tuple)

  def as_json(self) -> dict[str, Any]:
    """All of it in JSON types."""
    return asdict(self)

  @classmethod
  def from_json(cls, content: dict[str, Any]) -> 'LabelledImage':
    """The inverse of `as_json`."""
    objects = [LabelledObject(**entry) for entry in content['objects']]
    return cls(**{**content, 'objects': objects})


class LabelFormat(Protocol):
  """Labelled images in one format on disk."""

  @property
  def keys(self) -> Sequence[str]:
    """A name for every image, in the order they are written."""

  @property
  def categories(self) -> Sequence[str] | None:
    """Names, in order; None where they are gathered from the objects."""

  @property
  def notes(self) -> Sequence[str]:
    """What else should be said of the data, such as images without labels."""

  def files(self, key: str) -> Sequence[Path]:
    """The files that decide what `read` gives."""

  def read(self, key: str) -> LabelledImage:
    """Reads an image's labels.

    Raises:
      UserError: they, or the image, cannot be used; names the file.
    """
