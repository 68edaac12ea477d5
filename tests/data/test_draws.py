import numpy as np

from embedmask_jax.data.draws import Stream, draw_bits, draw_uniform


def test_a_number_depends_on_nothing_but_its_name():
  ids = np.asarray([5, 9, -1, 2**40])
  together = draw_bits(3, Stream.FLIP, np.arange(4)[:, None], ids)
  for epoch in range(4):
    for column, identity in enumerate(ids):
      alone = draw_bits(3, Stream.FLIP, np.asarray([epoch]), np.asarray([identity]))
      assert alone == together[epoch, column]


def test_every_part_of_the_name_counts():
  names = [(3, Stream.FLIP, 1, 7), (4, Stream.FLIP, 1, 7), (3, Stream.SCALE, 1, 7)]
  names += [(3, Stream.FLIP, 2, 7), (3, Stream.FLIP, 1, 8), (3, Stream.FLIP, 7, 1)]
  drawn = {
    int(draw_bits(seed, stream, np.asarray([epoch]), np.asarray([identity]))[0])
    for seed, stream, epoch, identity in names
  }
  assert len(drawn) == len(names)


def test_known_numbers():
  """A change of these would silently change every run."""
  drawn = draw_bits(0, Stream.ORDER, np.asarray([0, 1]), np.asarray([1, 1]))
  assert drawn.tolist() == [3048674281419798293, 2481679603179911387]


def test_numbers_are_uniform_and_unrelated():
  epochs, ids = np.arange(200)[:, None], np.arange(500)
  flips = draw_uniform(0, Stream.FLIP, epochs, ids)
  scales = draw_uniform(0, Stream.SCALE, epochs, ids)
  assert flips.min() >= 0
  assert flips.max() < 1
  counts = np.histogram(flips, 20, (0, 1))[0]
  assert np.abs(counts - 5000).max() < 350
  for left, right in [
    (flips, scales),
    (flips[1:], flips[:-1]),
    (flips[:, 1:], flips[:, :-1]),
  ]:
    assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 0.015
