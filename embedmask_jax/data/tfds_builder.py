"""Writes a COCO-format data set as ArrayRecord files, masks included, by way of TFDS.

The folder of records, which `embedmask prepare --from=coco` writes, then serves as
`annotations` in a config, with `images` left empty. Other programs read it with
`tfds.builder_from_directory(RECORDS).as_data_source()`.
TensorFlow is not needed for either.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from embedmask_jax.data.coco_source import CocoSource, read_image_file
from embedmask_jax.data.decode import open_rgb
from embedmask_jax.data.record_source import INDEX_FILE, save_index
from embedmask_jax.errors import UserError
from embedmask_jax.storage import copy_files, is_remote, list_names, located


class CocoInstances(tfds.core.GeneratorBasedBuilder):
  """Images as they lie on disk, with their entries of the JSON.

  Features of an example: `image` (the file's bytes), `image_id`, `file_name`,
  `height`, `width` and `annotations` (the image's annotations as JSON text, word for
  word: TFDS would store coordinates as float32).
  """

  VERSION = tfds.core.Version('1.0.0')

  # TFDS would look for checksums of downloads beside this file, with a package that
  # it does not declare (importlib_resources). Nothing is downloaded.
  code_path = None

  def __init__(self, *, source: CocoSource, split: str, **kwargs: Any):
    """Takes the data to write and the name of its only split."""
    self._source = source
    self._split = split
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description='Images and their instance annotations in COCO form.',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Scalar(dtype=np.object_),
          'image_id': tfds.features.Scalar(dtype=np.int64),
          'file_name': tfds.features.Text(),
          'height': tfds.features.Scalar(dtype=np.int64),
          'width': tfds.features.Scalar(dtype=np.int64),
          'annotations': tfds.features.Text(),
        }
      ),
      # TFDS would else shuffle by a hash of the key; the sampler shuffles for us.
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    return {self._split: self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
    source = self._source
    annotations = source.annotations_by_image()
    for index, image_id in enumerate(source.image_ids):
      height, width = source.sizes[index].tolist()
      name = source.file_names[index]
      encoded = read_image_file(source.path(index))
      # What cannot be decoded is better found now than in the middle of a run.
      open_rgb(encoded, name, (height, width))
      yield (
        index,
        {
          'image': encoded,
          'image_id': image_id,
          'file_name': name,
          'height': height,
          'width': width,
          'annotations': json.dumps(annotations[index]),
        },
      )


def prepare_records(
  annotations: str | os.PathLike,
  images: str | os.PathLike,
  output_dir: str | os.PathLike,
  split: str = 'train',
) -> epath.Path:
  """Writes a data set as ArrayRecord files for `RecordSource`.

  The records are whole or absent: they are written beside their final place and moved
  there when complete; into an object store they are copied, the index last, without
  which nothing reads them.

  Args:
    annotations: path of the COCO JSON.
    images: folder of the images, or several joined by commas.
    output_dir: what to write, a folder or gs://...; must not exist, or be empty.
    split: the name TFDS knows the data by.

  Returns:
    The absolute path of `output_dir`.

  Raises:
    UserError: the data set cannot be used (see `CocoSource`), an image cannot be
      decoded, or `output_dir` exists or cannot be written.
  """
  output = located(output_dir)
  if not split.isidentifier():
    raise UserError(f'split {split!r}: use letters, digits and underscores')
  if output.exists() and (not output.is_dir() or list_names(output)):
    raise UserError(f'{output} exists; remove it or name another output folder')
  source = CocoSource(annotations, images)
  beside = None if is_remote(output) else output.parent
  try:
    if beside:
      beside.mkdir(parents=True, exist_ok=True)
    incomplete = tempfile.mkdtemp(prefix=f'.{output.name}-', dir=beside)
  except OSError as error:
    raise UserError(f'{output}: cannot be written ({error.strerror})') from error
  try:
    builder = CocoInstances(
      source=source, split=split, data_dir=incomplete, file_format='array_record'
    )
    builder.download_and_prepare()
    written = epath.Path(builder.data_dir)
    save_index(written, source.table, split)
    if beside:
      os.replace(written, output)
    else:
      copy_files(written, output, sorted(list_names(written) - {INDEX_FILE}))
      copy_files(written, output, [INDEX_FILE])
  except OSError as error:
    raise UserError(f'{output}: cannot be written ({error})') from error
  finally:
    shutil.rmtree(incomplete, ignore_errors=True)
  return output
