"""Every field of a run, with the paper's values; the other configs derive from it.

A field is set on the command line as --config.part.field=value; a field that is
not here is an error. Tuples are written as '(640, 800)' or 640,800.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()
  # Draws the initial parameters, the order of the images and the augmentation.
  config.seed = 0

  config.model = model = ConfigDict()
  # Which generation of the method, 2019 | 2019_released | 2020 | 2021 | adelaidet; its
  # numbers (embedding_dim, mask_threshold ...) are in its configs.
  model.preset = '2021'
  model.backbone = 'resnet50'  # resnet18 | resnet34 | resnet50 | resnet101
  model.backbone_width = 64  # channels of the stem
  model.stride_in_1x1 = True  # True: MSRA bottlenecks, False: torchvision's
  model.norm = 'frozen_bn'  # frozen_bn (pre-trained) | group | batch (from scratch)
  model.frozen_stages = 2  # 0 none, 1 stem, 2 and stage 1, ... 5 whole backbone
  # adelaidet only: batch (live) | frozen_bn (as loaded, for batches of few images)
  model.mask_branch_norm = 'batch'
  model.fpn_channels = 256
  model.head_channels = 256  # of the towers; stems and mask branch have half
  model.head_depth = 4  # convolutions per tower
  model.embedding_dim = 16  # dimensions; but in 2019 two of them carry coordinates
  # Compute dtype, float32 | bfloat16; parameters: float32. JAX's default multiplies
  # float32 in bfloat16 on TPUs and in TF32 on GPUs since the A100, unless the
  # environment has JAX_DEFAULT_MATMUL_PRECISION=highest.
  model.dtype = 'float32'
  model.pixel_mean = (102.9801, 115.9465, 122.7717)  # blue, green, red, 0..255
  model.pixel_std = (1.0, 1.0, 1.0)  # blue, green, red
  model.prior_probability = 0.01  # class score of every location at the start

  config.data = data = ConfigDict()
  # COCO JSON and image folder(s), several joined by commas; or, as annotations, a
  # folder of records written by our builder (images is then left empty).
  data.train = ConfigDict({'annotations': '', 'images': ''})
  data.eval = ConfigDict({'annotations': '', 'images': ''})
  # Generated scenes in place of the above, drawn once into the user's cache folder
  # (the environment variable EMBEDMASK_CACHE names another).
  data.generated = ConfigDict()
  data.generated.enabled = False
  data.generated.train_images = 256
  data.generated.eval_images = 64
  data.generated.image_size = 192  # pixels, both sides
  data.generated.seed = 0
  data.short_sides = (800,)  # network pixels; one is drawn per image
  data.long_side = 1333  # network pixels, upper bound
  data.eval_short_side = 800  # network pixels, evaluation and prediction
  data.flip_probability = 0.5  # horizontal
  data.crop_size = ()  # (height, width) of a random crop after resizing; () none
  # A factor of the resized size, drawn between the two for each image, such as
  # (0.1, 2.0); with crop_size only; () none.
  data.scale_jitter = ()
  # Of laying half of the instances of another image over an image.
  data.copy_paste_probability = 0.0
  data.canvases = ()  # ((height, width), ...), multiples of 32; () derived
  data.instance_ladder = (8, 16, 32, 64, 128, 256, 512)  # padded instances a batch
  data.min_box_side = 1.0  # original pixels; a box is kept if wider and higher
  data.workers = 0  # reading processes; 0 reads in this process
  data.prefetch = 2  # batches made ahead
  data.max_worker_deaths = 0  # reading processes that are replaced before giving up

  config.train = train = ConfigDict()
  train.batch_size = 16  # images per update, over all devices
  train.steps = 90000  # updates at optim.reference_batch_size
  train.accumulation_steps = 1  # parts a batch is computed in, one after another
  # What the backward pass computes again instead of keeping it: none | blocks |
  # stages (less memory, more time); results are the same.
  train.remat = 'none'
  # Of a moving average of the parameters, which evaluation and prediction then use,
  # such as 0.9998; 0: none.
  train.ema_decay = 0.0
  train.log_every = 20  # steps
  train.eval_every = 10000  # steps; 0: at the end only
  train.checkpoint_every = 2500  # steps; the last step is always saved

  config.optim = optim = ConfigDict()
  optim.name = 'sgd'  # sgd | adamw
  optim.learning_rate = 0.01  # at reference_batch_size
  # Linear rule: rate times batch_size / reference, steps and milestones divided by
  # it, warm-up unchanged. 0: off, everything is taken as written.
  optim.reference_batch_size = 16
  optim.weight_decay = 1e-4  # of everything but biases
  optim.norm_decay_multiplier = 1.0  # of weight_decay, for scales of norms
  optim.momentum = 0.9  # sgd only
  optim.momentum_dtype = 'float32'  # bfloat16 halves what the momentum takes
  optim.bias_rate_multiplier = 2.0
  optim.bias_weight_decay = 0.0
  optim.warmup_steps = 500
  optim.warmup = 'constant'  # constant | linear
  optim.warmup_factor = 1 / 3  # of the rate, at step 0
  optim.schedule = 'step'  # step | cosine
  optim.milestones = (60000, 80000)  # steps, for schedule = step
  optim.decay_factor = 0.1  # at every milestone
  optim.clip_norm = 0.0  # global norm of the gradient; 0: no clipping

  config.eval = evaluation = ConfigDict()
  evaluation.batch_size = 1  # images
  evaluation.score_threshold = 0.05
  evaluation.pre_nms_top_k = 1000  # candidates per level
  evaluation.nms_threshold = 0.6  # IoU
  evaluation.max_detections = 100  # per image; dense data need several hundred
  evaluation.max_dets = (1, 10, 100)  # detections scored per image, AR and AP
  evaluation.mask_threshold = 0.53  # probability
  evaluation.mask_chunk = 10  # masks assembled at a time
  evaluation.output_ladder = ((640, 640), (1024, 1024), (2048, 2048))  # pixels
  evaluation.num_overlays = 8  # example images drawn at every evaluation

  config.checkpoint = checkpoint = ConfigDict()
  checkpoint.keep_last = 2
  checkpoint.keep_best = 1
  checkpoint.best_metric = 'segm/AP'  # a key of metrics.json

  # Parameters to start from: a work folder, checkpoint or model file of ours, the model
  # that comes along (nuclei), or a weight file of others
  # (embedmask_jax/import_weights.py). A checkpoint in the run's own work folder goes
  # before it.
  config.init = ConfigDict({'checkpoint': ''})
  return config
