"""Prediction on images without annotations."""

from embedmask_jax.predict.files import predict_files
from embedmask_jax.predict.prediction import Prediction
from embedmask_jax.predict.predictor import Predictor

__all__ = ['Prediction', 'Predictor', 'predict_files']
