"""The recipe for nuclei with preset `adelaidet`, the best of the four on these data.

Command: that of configs/nuclei.py with this file. Its mask branch has batch norm, so
the eight crops of a batch are better not made fewer.

Hardware and time: two CPU cores, see experiments/nuclei/README.md for the receipt.
"""

from ml_collections import ConfigDict

from configs import nuclei


def get_config() -> ConfigDict:
  config = nuclei.get_config()
  config.model.preset = 'adelaidet'
  config.data.min_box_side = 1e-5
  config.eval.mask_threshold = 0.5
  return config
