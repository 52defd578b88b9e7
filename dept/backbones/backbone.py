"""`Backbone` with every kind known to it: import it from here."""

from dept.backbones.base import IGNORE, Backbone, Output
from dept.backbones.causal import CausalBackbone
from dept.backbones.encoder import EncoderBackbone
from dept.backbones.encoder_decoder import EncoderDecoderBackbone
from dept.backbones.seeing import SeeingBackbone

__all__ = [
    "IGNORE",
    "Backbone",
    "CausalBackbone",
    "EncoderBackbone",
    "EncoderDecoderBackbone",
    "Output",
    "SeeingBackbone",
]
