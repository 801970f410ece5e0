"""Networks, one per file, and ``load_model``. This room imports utils alone.

backbone: feature backbones from timm
base: the parts that CF, SCC and PR share: preparing images, forms of input, the loss
chromatic: CF
color_prior: P(ab | gray image) as a map, and pixels compared with it
loading: from a weight file to a network
object_prior: P(ab | category, lightness), and objects compared with it
preprocessing: from an image of any size to the input of the networks
published: the three networks of the published ICQA-Net
ranker: ranks of the colorings of one photograph
realism: PR
semantic: SCC
"""

from models.chromatic import ChromaticFidelityNet
from models.loading import load_model
from models.realism import PerceptualRealismNet
from models.semantic import SemanticConsistencyNet

__all__ = ["ChromaticFidelityNet", "PerceptualRealismNet", "SemanticConsistencyNet", "load_model"]
