"""The page: what stands on it, and what happens when it is touched."""

import html
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from embedmask_jax.demo.exploration import DEFAULT_SCORE, LOWEST_SCORE, Exploration
from embedmask_jax.demo.pictures import (
  draw_distances,
  draw_embedding,
  draw_instances,
  pixel_of_click,
)
from embedmask_jax.demo.results import write_results
from embedmask_jax.demo.uploads import MAX_BYTES, MAX_PIXELS, read_upload
from embedmask_jax.errors import UserError
from embedmask_jax.image_files import SUFFIXES
from embedmask_jax.predict.embedding_view import EmbeddingView
from embedmask_jax.predict.prediction import Prediction

if TYPE_CHECKING:
  import gradio

Explain = Callable[[np.ndarray], tuple[Prediction, EmbeddingView]]

COLUMNS = ('#', 'class', 'score', 'area', 'box')
STYLE = """
footer { display: none !important; }
#picture img { cursor: crosshair; }
"""
_HINT = 'Drop an image. The first of a size takes longer: its program is compiled.'
_CLICK = 'Click an instance in the picture, or its row, to look at it alone.'
_DISTANCES = (
  '**Distance to the chosen instance**, `log p = -margin · (pixel - proposal)²`, and '
  'where it makes a mask (outlined; only that near the box counts).'
)
_EMBEDDING = (
  '**Pixel embedding**: its first three principal components as red, green and blue.'
)
# How long what a visitor has seen is kept, and how many may wait for the network.
_SECONDS_KEPT = 3600
_LONGEST_QUEUE = 32


class Seen(NamedTuple):
  """What a visitor sees: an exploration, and (width, height) of its picture."""

  exploration: Exploration
  picture: tuple[int, int]


def build_page(explain: Explain, model_name: str) -> 'gradio.Blocks':
  """Lays out the page.

  Args:
    explain: finds instances in an image, uint8 [h, w, 3]; called by one visitor at a
      time, the others wait.
    model_name: shown in the title.
  """
  import gradio as gr

  with gr.Blocks(
    title=f'EmbedMask: {model_name}',
    analytics_enabled=False,
    fill_width=True,
    delete_cache=(_SECONDS_KEPT // 6, _SECONDS_KEPT),
  ) as page:
    state = gr.State(None, time_to_live=_SECONDS_KEPT)
    gr.Markdown(f'# EmbedMask · {html.escape(model_name)}')
    with gr.Row():
      with gr.Column(scale=5, min_width=320):
        upload = gr.File(
          label=f'Image, up to {MAX_BYTES // 2**20} MB and {MAX_PIXELS // 10**6} '
          'megapixels',
          file_types=sorted(SUFFIXES),
          height=150,
          elem_id='upload',
        )
        score = gr.Slider(
          LOWEST_SCORE,
          1,
          DEFAULT_SCORE,
          step=0.01,
          label='Smallest score shown',
          elem_id='score',
        )
        status = gr.Markdown(_HINT, elem_id='status')
        show_all = gr.Button('Show all instances', interactive=False, elem_id='all')
        table = gr.Dataframe(
          headers=list(COLUMNS),
          datatype=['number', 'str', 'number', 'number', 'str'],
          column_widths=['11%', '22%', '17%', '16%', '34%'],
          wrap=True,
          interactive=False,
          show_label=False,
          max_height=360,
          elem_id='table',
        )
        save = gr.Button('Make files to download', interactive=False, elem_id='save')
        files = gr.File(
          show_label=False,
          file_count='multiple',
          interactive=False,
          visible=False,
          elem_id='files',
        )
      with gr.Column(scale=8, min_width=400):
        picture = _picture(gr, '**Instances**', 'picture')
      with gr.Column(scale=5, min_width=320):
        distances = _picture(gr, _DISTANCES, 'distances')
        embedding = _picture(gr, _EMBEDDING, 'embedding')

    def files_gone() -> Any:
      return gr.update(value=None, visible=False)

    def show(seen: Seen) -> tuple:
      exploration = seen.exploration
      is_chosen = exploration.chosen is not None
      return (
        seen,
        draw_instances(exploration),
        describe(exploration),
        exploration.rows(),
        draw_distances(exploration) if is_chosen else None,
        gr.update(interactive=is_chosen),
        gr.update(interactive=True),
        files_gone(),
      )

    shown = [state, picture, status, table, distances, show_all, save, files]

    def nothing() -> tuple:
      off = gr.update(interactive=False)
      return None, None, _HINT, None, None, off, off, files_gone(), None

    def see(path: str, least: float) -> tuple:
      try:
        prediction, view = explain(read_upload(Path(path)))
      except UserError as error:
        raise _visible(gr, error) from error
      exploration = Exploration(Path(path).name, prediction, view, least)
      size = draw_instances(exploration).size
      return *show(Seen(exploration, size)), draw_embedding(exploration)

    def at_score(seen: Seen | None, least: float) -> tuple:
      if seen is None:
        return tuple(gr.skip() for _ in shown)
      return show(seen._replace(exploration=seen.exploration.at_score(least)))

    def choose(seen: Seen | None, index: int | None) -> tuple:
      if seen is None:
        raise gr.Error('There is no image any more: drop it again')
      return show(seen._replace(exploration=seen.exploration.choosing(index)))

    def click(seen: Seen | None, event: gr.SelectData) -> tuple:
      index = None
      if seen is not None:
        size = seen.exploration.prediction.size
        index = seen.exploration.at(*pixel_of_click(event.index, seen.picture, size))
      return choose(seen, index)

    def click_row(seen: Seen | None, event: gr.SelectData) -> tuple:
      return choose(seen, int(event.row_value[0]) - 1)

    def write(seen: Seen | None) -> Any:
      if seen is None:
        raise gr.Error('There is no image any more: drop it again')
      folder = Path(tempfile.mkdtemp()) / 'results'
      try:
        paths = write_results(seen.exploration, folder)
      except UserError as error:
        raise _visible(gr, error) from error
      return gr.update(value=[str(path) for path in paths], visible=True)

    upload.upload(
      see,
      [upload, score],
      [*shown, embedding],
      api_name='detect',
      show_progress_on=picture,
    )
    upload.clear(nothing, None, [*shown, embedding], api_visibility='private')
    score.input(
      at_score,
      [state, score],
      shown,
      api_name='score',
      show_progress='hidden',
      trigger_mode='always_last',
    )
    picture.select(
      click, state, shown, api_visibility='private', show_progress_on=distances
    )
    table.select(
      click_row, state, shown, api_visibility='private', show_progress_on=distances
    )
    show_all.click(
      lambda seen: choose(seen, None), state, shown, api_visibility='private'
    )
    save.click(write, state, files, api_name='files')
  # A function runs for one visitor at a time; the routes around the queue are shut.
  page.queue(api_open=False, max_size=_LONGEST_QUEUE, default_concurrency_limit=1)
  return page


def describe(exploration: Exploration) -> str:
  """The line that says what is shown, Markdown."""
  shown, prediction = exploration.shown, exploration.prediction
  height, width = prediction.size
  text = (
    f'**{len(shown)}** of {len(prediction)} instances, in {width} x {height} pixels. '
  )
  if prediction.num_cut_off:
    text += f'Up to {prediction.num_cut_off} more were cut off by the cap. '
  if exploration.chosen is None:
    return text + (_CLICK if len(shown) else 'Lower the score to see more.')
  name = shown.class_names[exploration.chosen]
  score = shown.scores[exploration.chosen]
  return text + f'Chosen: number {exploration.chosen + 1}, {name}, {score:.2f}.'


def _picture(gr: Any, caption: str, name: str) -> Any:
  gr.Markdown(caption)
  # No button that would share a picture with another site.
  return gr.Image(
    show_label=False,
    interactive=False,
    type='pil',
    format='png',
    buttons=['download', 'fullscreen'],
    elem_id=name,
  )


def _visible(gr: Any, error: UserError) -> Exception:
  """A message to the visitor, there until it is closed.

  It is shown as HTML, and may hold a file's name.
  """
  return gr.Error(html.escape(str(error)), duration=None, print_exception=False)
