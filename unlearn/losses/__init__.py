"""Loss terms: one file a loss, each a pure function of what one forward pass gave."""

from unlearn.losses._view import Loss, Need, TokenView, Unit
from unlearn.losses.grad_ascent import GradAscent
from unlearn.losses.kl import KLFromBase, KLFromBefore, kl_divergence
from unlearn.losses.match_teacher import MatchTeacher
from unlearn.losses.nll import NLL
from unlearn.losses.npo import NPO
from unlearn.losses.simnpo import SimNPO

__all__ = [
    "FORGET_LOSSES",
    "NLL",
    "NPO",
    "RETAIN_LOSSES",
    "GradAscent",
    "KLFromBase",
    "KLFromBefore",
    "Loss",
    "MatchTeacher",
    "Need",
    "SimNPO",
    "TokenView",
    "Unit",
    "kl_divergence",
]

FORGET_LOSSES: dict[str, type[Loss]] = {
    "grad_ascent": GradAscent,
    "kl_from_base": KLFromBase,
    "match_teacher": MatchTeacher,
    "npo": NPO,
    "simnpo": SimNPO,
}

RETAIN_LOSSES: dict[str, type[Loss]] = {
    "kl": KLFromBefore,
    "nll": NLL,
}
