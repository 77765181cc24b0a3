"""Loss terms: one file a loss, each a pure function of what one forward pass gave."""

from unlearn.losses._view import HiddenLoss, Loss, Need, TokenView, Unit
from unlearn.losses.ce_u import CEU
from unlearn.losses.dpo import DPO
from unlearn.losses.flat import FLAT
from unlearn.losses.flatness import Flatness
from unlearn.losses.grad_ascent import GradAscent
from unlearn.losses.inverted_hinge import InvertedHinge
from unlearn.losses.jensen_shannon import JensUn, JSFromBefore, js_divergence
from unlearn.losses.kl import KLFromBase, KLFromBefore, KLToBefore, kl_divergence
from unlearn.losses.match_teacher import MatchTeacher
from unlearn.losses.nll import NLL, FlooredNLL
from unlearn.losses.npo import NPO
from unlearn.losses.rmu import HiddenMSE, Misdirect, MisdirectByNorm
from unlearn.losses.scrub import AwayFromBefore, StayAndLearn
from unlearn.losses.simnpo import SimNPO
from unlearn.losses.undial import UNDIAL
from unlearn.losses.uniform import Uniform
from unlearn.losses.wga import WGA, SatImp

__all__ = [
    "CEU",
    "DPO",
    "FLAT",
    "FORGET_LOSSES",
    "NLL",
    "NPO",
    "RETAIN_LOSSES",
    "UNDIAL",
    "WGA",
    "AwayFromBefore",
    "Flatness",
    "FlooredNLL",
    "GradAscent",
    "HiddenLoss",
    "HiddenMSE",
    "InvertedHinge",
    "JSFromBefore",
    "JensUn",
    "KLFromBase",
    "KLFromBefore",
    "KLToBefore",
    "Loss",
    "MatchTeacher",
    "Misdirect",
    "MisdirectByNorm",
    "Need",
    "SatImp",
    "SimNPO",
    "StayAndLearn",
    "TokenView",
    "Uniform",
    "Unit",
    "js_divergence",
    "kl_divergence",
]

FORGET_LOSSES: dict[str, type[Loss]] = {
    "away": AwayFromBefore,
    "ce_u": CEU,
    "dpo": DPO,
    "flat": FLAT,
    "flatness": Flatness,
    "grad_ascent": GradAscent,
    "inverted_hinge": InvertedHinge,
    "jensun": JensUn,
    "kl_from_base": KLFromBase,
    "match_teacher": MatchTeacher,
    "misdirect": Misdirect,
    "misdirect_by_norm": MisdirectByNorm,
    "npo": NPO,
    "satimp": SatImp,
    "simnpo": SimNPO,
    "undial": UNDIAL,
    "uniform": Uniform,
    "wga": WGA,
}

RETAIN_LOSSES: dict[str, type[Loss]] = {
    "hidden_mse": HiddenMSE,
    "js": JSFromBefore,
    "kl": KLFromBefore,
    "nll": NLL,
    "reverse_kl": KLToBefore,
    "stay_and_learn": StayAndLearn,
}
