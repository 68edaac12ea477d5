"""Post-processing: detections and masks from head outputs."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
from golden_detections import (
  Sizes,
  compare_detections,
  decisions_in_doubt,
  detections_of,
  number_of,
  pairs_of,
  settings_of,
)
from golden_set import Arrays, GoldenSet, canvas_of, head_outputs
from golden_table import Report

from embedmask_jax.errors import UserError
from embedmask_jax.ops.locations import locations
from embedmask_jax.postprocess import mask_threshold
from embedmask_jax.structures import Detections, HeadOutputs

_NUMBER = r'([\d.]+)'
# What rounding does to class scores, IoUs and final scores of one set of heads.
_ROUNDING = (1e-8, 2e-7, 5e-8)


@dataclasses.dataclass(frozen=True)
class Case:
  """A post-processing record: whose head outputs, and what was done to them."""

  forward: str
  note: str

  @property
  def is_plain(self) -> bool:
    """Whether the head outputs are those of the network, unchanged."""
    return self.note.startswith(('default config', 'unchanged head outputs'))

  def change(self, outputs: HeadOutputs) -> HeadOutputs:
    """The head outputs that the record was made from.

    Raises:
      UserError: the note says something that no rule here covers.
    """
    logits = outputs.class_logits
    if self.is_plain:
      return outputs
    if match := re.search(f'with {_NUMBER} added to every logit', self.note):
      return outputs.replace(class_logits=logits + np.float32(match[1]))
    pattern = (
      rf'with {_NUMBER} subtracted from (?:the logits|every logit) of image (\d+)'
    )
    if match := re.search(pattern, self.note):
      image = int(match[2])
      changed = logits.at[image].add(-np.float32(match[1]))
      return outputs.replace(class_logits=changed)
    if match := re.search(f'with {_NUMBER} subtracted from every logit', self.note):
      return outputs.replace(class_logits=logits - np.float32(match[1]))
    pattern = (
      rf'logits := round_half_even\({_NUMBER}\*logit\)/{_NUMBER} \+ {_NUMBER}, '
      'centerness logits := 0'
    )
    if match := re.search(pattern, self.note):
      factor, divisor, shift = (np.float32(match[i]) for i in (1, 2, 3))
      return outputs.replace(
        class_logits=jnp.round(logits * factor) / divisor + shift,
        centerness=jnp.zeros_like(outputs.centerness),
      )
    raise UserError(f'no rule for "{self.note}"')


def case_of(golden: GoldenSet, record: str) -> Case:
  """The case of the record `post_<name>`, from the forward index.

  Raises:
    UserError: the index does not have it.
  """
  entry = golden.json('forward_index').get('post', {}).get(record[len('post_') :])
  match = re.search(r'forward_(\w+)', entry['note']) if entry else None
  if match is None:
    raise UserError(f'{record}.npz: forward_index.json does not say what it is made of')
  return Case(forward=f'forward_{match[1]}', note=entry['note'])


def check_post(golden: GoldenSet, report: Report) -> None:
  """Every `post_*` record, from the stored head outputs."""
  for record in golden.records('post_.*'):
    case = case_of(golden, record)
    forward, post = golden.arrays(case.forward), golden.arrays(record)
    stored = head_outputs(forward, is_in_pixels=not golden.is_adelaidet)
    outputs = case.change(stored)
    sizes = Sizes.of(post, canvas_of(forward))
    found = detections_of(golden, outputs, sizes, number_of(post))
    _compare_grid(golden, report, record, post, sizes)
    allowed = decisions_in_doubt(report, record, post, _ROUNDING)
    compare_detections(
      golden,
      report,
      'from heads',
      record,
      outputs,
      found,
      post,
      sizes,
      allowed=allowed,
    )
    for i in range(len(sizes.image)):
      _compare_quoted(report, record, outputs, found, post, i)
    candidates = post['n_candidates'].sum(axis=0)
    for count, expected in (
      (found.num_candidates, candidates),
      (found.num_kept, post['n_after_nms']),
    ):
      error = max(int(np.abs(count - expected).max()) - allowed, 0)
      report.observe('detections from heads: numbers of candidates', record, error)


def _compare_grid(
  golden: GoldenSet, report: Report, record: str, post: Arrays, sizes: Sizes
) -> None:
  """The stride-4 grid, and the threshold where the record has it."""
  grid = [side // 4 for side in sizes.canvas]
  report.compare('detections from heads: grid', record, grid, post['mask_grid_hw'])
  if 'mask_threshold' in post:
    threshold = mask_threshold(settings_of(golden), golden.preset)
    quantity = 'detections from heads: threshold'
    report.compare(quantity, record, threshold, post['mask_threshold'])


def _compare_quoted(
  report: Report,
  record: str,
  outputs: HeadOutputs,
  found: Detections,
  post: Arrays,
  i: int,
) -> None:
  """The rows of the head outputs that the record quotes."""
  ours, theirs = pairs_of(found, post, i)
  location = found.location[i][ours]
  for name, array in (
    ('embed', outputs.proposal_embedding),
    ('margin', outputs.margin),
  ):
    if f'im{i}_proposal_{name}' in post:
      expected = post[f'im{i}_proposal_{name}'][theirs]
      report.compare(
        'detections from heads: embeddings and margins',
        record,
        np.asarray(array[i])[location].reshape(expected.shape),
        expected,
      )


def check_locations(golden: GoldenSet, report: Report) -> None:
  """The locations that forward records list."""
  for record in golden.records('forward_.*'):
    forward = golden.arrays(record)
    expected = np.concatenate(forward.levels('locations'))
    report.compare(
      'forward: locations', record, locations(canvas_of(forward)), expected
    )
