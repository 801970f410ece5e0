"""The three networks of ICQA-Net and ``load_model``."""

from models.chromatic import ChromaticFidelityNet
from models.loading import load_model
from models.realism import PerceptualRealismNet
from models.semantic import SemanticConsistencyNet

__all__ = ["ChromaticFidelityNet", "PerceptualRealismNet", "SemanticConsistencyNet", "load_model"]
