"""torchvision's Mask R-CNN on the images of gpu.py, which runs this by itself.

  python experiments/benchmarks/mask_rcnn.py --batch_size=8 [--rounds=10]

`maskrcnn_resnet50_fpn`, bfloat16 by autocast, channels last, from images on the GPU to
100 masks pasted at 640x480: eager, without the pasting, and with backbone and heads
compiled. The weights are random, scaled so that boxes stay near their anchors and that
1000 pairs of box and class an image reach non-maximum suppression, which is more than a
trained model has. Not run on a GPU yet.
"""

import argparse
import statistics
import sys
import time
from typing import Any

import torch
import torchvision
from full_size import IMAGE_SIZE, ORIGINAL_SIZE, full_size_batch

NUM_CLASSES = 91
# Of box and class, an image.
CANDIDATES = 1000


def make_model() -> Any:
  """The network, its anchors, boxes and scores in float32 as deployments have them."""
  model = torchvision.models.detection.maskrcnn_resnet50_fpn(
    weights=None, weights_backbone=None, num_classes=NUM_CLASSES
  )
  model = model.eval().cuda().to(memory_format=torch.channels_last)
  # Images come in the size of the network.
  model.transform.resize = lambda image, target=None: (image, target)
  # Anchors take the type of the features, of which they read nothing but the shape.
  model.rpn.anchor_generator.register_forward_pre_hook(
    lambda module, inputs: (
      inputs[0],
      [torch.empty(x.shape, device=x.device) for x in inputs[1]],
    )
  )
  predictor = model.roi_heads.box_predictor
  for layer in (model.rpn.head.bbox_pred, predictor.bbox_pred):
    torch.nn.init.normal_(layer.weight, std=1e-5)
  model.rpn.head.register_forward_hook(
    lambda module, inputs, outputs: tuple([x.float() for x in part] for part in outputs)
  )
  predictor.register_forward_hook(
    lambda module, inputs, outputs: tuple(x.float() for x in outputs)
  )
  return model


def paste_at_original_size(model: Any) -> None:
  """Has masks pasted at the size of the original in place of that of the input."""
  paste = torchvision.models.detection.roi_heads.paste_masks_in_image
  sides = zip(ORIGINAL_SIZE[::-1] * 2, IMAGE_SIZE[::-1] * 2, strict=True)
  scale = torch.tensor([original / shown for original, shown in sides], device='cuda')
  model.transform.postprocess = lambda result, *_: [
    {
      **found,
      'masks': paste(found['masks'], found['boxes'] * scale, ORIGINAL_SIZE) > 0.5,
    }
    for found in result
  ]


def let_candidates_through(model: Any, images: list[Any]) -> None:
  """Scales the class logits and sets the threshold, for CANDIDATES an image."""
  heads = model.roi_heads

  def logits() -> Any:
    seen = []
    hook = heads.box_predictor.register_forward_hook(
      lambda module, inputs, outputs: seen.append(outputs[0])
    )
    run(model, images)
    hook.remove()
    return seen[0]

  heads.score_thresh = 1.0
  with torch.no_grad():
    heads.box_predictor.cls_score.weight.mul_(2 / logits().std().item())
  scores = logits().softmax(-1)[:, 1:].flatten()
  count = min(CANDIDATES * len(images), scores.numel())
  heads.score_thresh = scores.topk(count).values[-1].item()


def run(model: Any, images: list[Any]) -> list[dict[str, Any]]:
  """What is found; the GPU may still be at it."""
  with torch.inference_mode(), torch.autocast('cuda', torch.bfloat16):
    return model(images)


def show_rate(name: str, model: Any, images: list[Any], rounds: int) -> None:
  """Prints the images/s of the median round, after three calls that do not count.

  As in gpu.py a round is of 16 images or more, with one wait at its end.
  """
  calls = max(16 // len(images), 1)
  for _ in range(3):
    run(model, images)
  torch.cuda.synchronize()
  seconds = []
  for _ in range(rounds):
    start = time.perf_counter()
    for _ in range(calls):
      run(model, images)
    torch.cuda.synchronize()
    seconds.append((time.perf_counter() - start) / calls)
  rate = len(images) / statistics.median(seconds)
  print(f'batch {len(images)}: Mask R-CNN, {name}: {rate:.1f} images/s', flush=True)


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--batch_size', type=int, default=8)
  parser.add_argument('--rounds', type=int, default=10)
  arguments = parser.parse_args()
  if not torch.cuda.is_available():
    sys.exit('no GPU for PyTorch')
  print(f'torch {torch.__version__}, torchvision {torchvision.__version__}')
  torch.manual_seed(0)
  torch.backends.cudnn.benchmark = True
  height, width = IMAGE_SIZE
  pixels = full_size_batch(arguments.batch_size).images[:, :height, :width]
  images = [
    torch.from_numpy(part.copy()).cuda().permute(2, 0, 1).float() / 255
    for part in pixels
  ]
  model = make_model()
  let_candidates_through(model, images)
  model.transform.postprocess = lambda result, *_: result
  show_rate('eager, masks of 28x28', model, images, arguments.rounds)
  paste_at_original_size(model)
  counts = [len(found['masks']) for found in run(model, images)]
  print(
    f'batch {len(images)}: Mask R-CNN, {statistics.mean(counts):.0f} masks an image'
  )
  show_rate('eager', model, images, arguments.rounds)
  heads = model.roi_heads
  for part in (
    model.backbone,
    model.rpn.head,
    heads.box_head,
    heads.mask_head,
    heads.mask_predictor,
  ):
    part.compile(dynamic=False)
  show_rate('compiled', model, images, arguments.rounds)


if __name__ == '__main__':
  main()
