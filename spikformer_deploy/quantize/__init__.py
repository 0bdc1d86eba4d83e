"""Float graph -> integer network: calibrate on images, choose scales at the thresholds, prove the bounds."""

from spikformer_deploy.quantize.build import Pixels, quantize
from spikformer_deploy.quantize.calibrate import Calibration, calibrate
from spikformer_deploy.quantize.neurons import Settings

__all__ = ["Calibration", "Pixels", "Settings", "calibrate", "quantize"]
