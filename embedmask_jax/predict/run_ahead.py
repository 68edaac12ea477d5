"""A stage of work that runs ahead of the one that takes its results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar('Item')
Result = TypeVar('Result')


def run_ahead(
  function: Callable[[Item], Result], items: Iterable[Item], *, threads: int
) -> Iterator[Result]:
  """Yields `function(item)` in the order of the items, computed by threads ahead.

  At most `2 * threads` items are under way or waiting to be taken, which bounds the
  memory. `items` is read by the caller's thread, so that several stages can be put
  one after another.

  Args:
    function: called by the threads; what it raises is raised here, in its turn.
    items: may be endless.
    threads: 0 calls the function here, without threads.
  """
  if not threads:
    yield from map(function, items)
    return
  pending: deque[Future[Result]] = deque()
  with ThreadPoolExecutor(threads) as pool:
    try:
      for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= 2 * threads:
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    finally:
      for future in pending:
        future.cancel()
