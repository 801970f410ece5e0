"""The three networks of ICQA-Net and ``load_model``."""

from models.chromatic import ChromaticFidelityNet
from models.realism import PerceptualRealismNet
from models.semantic import SemanticConsistencyNet
from utils.checkpoint import load_model

__all__ = ["ChromaticFidelityNet", "PerceptualRealismNet", "SemanticConsistencyNet", "load_model"]
