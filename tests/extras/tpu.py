"""The extra `tpu`: a training step and inference become TPU programs, without a TPU."""

import os

os.environ |= {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
  'TPU_WORKER_ID': '0',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  # A tenth of the compiler's time.
  'JAX_EXEC_TIME_OPTIMIZATION_EFFORT': '-1.0',
}

import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from embedmask_jax.compile_ahead import placed
from embedmask_jax.config_reading import read_config
from embedmask_jax.data.transforms import empty_batch
from embedmask_jax.inference import make_inference
from embedmask_jax.stored_model import detection_settings
from embedmask_jax.structures import DATA_AXIS, Batch
from embedmask_jax.train import set_up
from embedmask_jax.train_state import abstract_state

topology = topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x4')
mesh = Mesh(np.asarray(topology.devices), (DATA_AXIS,))
config = read_config('quickstart')
config.model.backbone_width = 16
config.model.dtype = 'bfloat16'
training = set_up(config, 3, mesh)
state = abstract_state(training.variables, training.optimizer, has_ema=False)
batch = Batch(**empty_batch(mesh.size, (128, 128), 8))
state, batch = placed(mesh, state), placed(mesh, batch, DATA_AXIS)
step = training.train_step.lower(state, batch).compile()
inference = make_inference(training.model, detection_settings(config.eval), mesh)
detect = inference.lower(state.variables, batch, (128, 128)).compile()
for program in (step, detect):
  assert 'convolution' in program.as_text()
