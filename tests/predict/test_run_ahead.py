"""Stages overlap, keep the order, and stay within bounds."""

import threading
import time
from itertools import count, islice

import pytest

from embedmask_jax.predict.run_ahead import run_ahead


@pytest.mark.parametrize('threads', [0, 1, 3])
def test_results_come_in_order(threads):
  def slow_at_first(item):
    time.sleep(0.02 if item == 0 else 0)
    return item * item

  assert list(run_ahead(slow_at_first, range(9), threads=threads)) == [
    i * i for i in range(9)
  ]


def test_items_are_taken_ahead_but_not_without_bound():
  taken = []

  def items():
    for i in count():
      taken.append(i)
      yield i

  assert list(islice(run_ahead(lambda i: i, items(), threads=2), 3)) == [0, 1, 2]
  assert 3 < len(taken) <= 3 + 2 * 2


def test_stages_work_at_the_same_time():
  # Each stage waits for the other one to have begun the next item.
  both = threading.Barrier(2, timeout=5)

  def meet(item):
    both.wait()
    return item

  first = run_ahead(meet, range(4), threads=2)
  assert list(first) == [0, 1, 2, 3]


def test_an_error_comes_in_its_turn():
  def fail(item):
    if item == 2:
      raise ValueError('two')
    return item

  results = run_ahead(fail, range(100), threads=2)
  assert [next(results), next(results)] == [0, 1]
  with pytest.raises(ValueError, match='two'):
    next(results)
