r"""Where a latent's divergence in closed form is its share of the rate: a question of the order of the draws.

Write q(z|x) = prod_s q(z_s|z_<s, x), where z_<s is what the guide has drawn before site s, and likewise p(z) =
prod_s p(z_s|pa_s). The rate is a sum over sites of E_q[ log q(z_s|z_<s, x) - log p(z_s|pa_s) ]. If every parent of s is
among z_<s, then p(z_s|pa_s) is a fixed distribution once z_<s is drawn, what is drawn after s integrates to one, and

    E_q[ log q(z_s|z_<s, x) - log p(z_s|pa_s) ]  =  E_q[ KL( q(z_s|z_<s, x) || p(z_s|pa_s) ) ].

If a parent is drawn after s (a guide bottom up, q(z1|x) q(z2|z1), under a model top down, p(z2) p(z1|z2)), that parent
depends on the very z_s over which the divergence averages, and the two sides differ: such a site takes
log q - log p at its draw. A program's site depends on nothing but sites before it, so the model's earlier latents hold
all parents, and the rule below never takes a closed form that does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["closed_form_holds"]


def closed_form_holds(model: Mapping[str, Any], guide: Mapping[str, Any]) -> frozenset[str]:
    """Name the latents whose KL may be taken in closed form, given both programs' latent sites in the order drawn.

    A mask counts for both densities or for none: a site that the two mask by different tensors is left out as well.

    Example:
        >>> site = {"mask": None}
        >>> sorted(closed_form_holds(model={"z2": site, "z1": site}, guide={"z1": site, "z2": site}))
        ['z2']
    """
    place = {name: position for position, name in enumerate(guide)}
    found, latest = set(), -1
    for name, site in model.items():
        if latest < place[name] and site["mask"] is guide[name]["mask"]:
            found.add(name)
        latest = max(latest, place[name])
    return frozenset(found)
