# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Adversarial variational Bayes
#
# A normal guide, a flow, a mixture: each names its density $q(z \mid x)$, because the bound needs $\log q$. Adversarial
# variational Bayes (Mescheder, Nowozin & Geiger, 2017) lets the guide be *any* network of data and noise,
# $z = g(x, \varepsilon)$, and learns the missing log-ratio with a classifier, the critic $T$:
#
# $$\max_T \; E_q \log \sigma(T(x,z)) + E_p \log(1 - \sigma(T(x,z)))
# \quad\Rightarrow\quad T^*(x,z) = \log q(z \mid x) - \log p(z),$$
#
# $$\max_{\theta, \phi} \; E_q\left[\log p_\theta(x \mid z) - T(x,z)\right].$$
#
# What you will see: a posterior that no normal resembles; why the number that training reports is no bound; what
# adaptive contrast is for; the paper's four patterns; and eight schools, whose latents are global and bimodal.

# %%
import os
from functools import partial

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

from aevb import guides
from aevb.inference import AdversarialVB, fit, log_evidence
from aevb.inference.critics import ResidualCritic
from aevb.inference.evidence.quadrature import Quadrature
from aevb.inference.objectives import warn_if_above
from aevb.models import networks

# A smoke run makes a few steps of everything; the conclusions need the whole lengths.
SMOKE = bool(os.environ.get("AEVB_SMOKE"))
steps = partial(min, 20) if SMOKE else int

# %% [markdown]
# ## A plain Pyro model and one sampler function
#
# The model observes the length of a two-dimensional latent. Its posterior is a ring. Nothing of this library is needed
# to write either program; `ImplicitDistribution` wraps one function from a shape to draws.

# %%
SCALE = 0.3


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.norm(dim=-1, keepdim=True), SCALE).to_event(1), obs=x)


torch.manual_seed(0)
network = networks.MLP(1 + 8, 2, hidden=[64, 64], activation="elu")


def guide(x):
    pyro.module("network", network)

    def draw(shape):
        return network(torch.cat([x.expand(*shape, 1), torch.randn(*shape, 8)], dim=-1))

    with pyro.plate("data", len(x)):
        pyro.sample("z", guides.ImplicitDistribution(draw, batch_shape=(len(x),), event_shape=(2,)))


x_train = torch.randn(20_000, 2).norm(dim=-1, keepdim=True) + SCALE * torch.randn(20_000, 1)
adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999), fused=True)
objective = AdversarialVB(critic_steps=2, critic=partial(ResidualCritic, width=64, num_blocks=2))
run = fit(model, guide, x_train, objective=objective, optimizer=adam, steps=steps(3000), batch_size=512, progress=False)

# %%
x_test = torch.tensor([[0.5], [1.0], [1.5], [2.0]])
draws = run.pair.sample_guide(x_test, 2000)["z"].detach()
figure, axes = plt.subplots(1, 4, figsize=(11, 3), sharex=True, sharey=True, layout="constrained")
for i, axis in enumerate(axes):
    axis.scatter(*draws[:, i].T, s=2, alpha=0.5)
    axis.add_patch(plt.Circle((0, 0), float(x_test[i]), fill=False, color="#D55E00"))
    axis.set(title=f"q(z | x = {float(x_test[i])})", aspect="equal", xlim=(-3.5, 3.5), ylim=(-3.5, 3.5))

# %% [markdown]
# Take one noise vector and you cannot say how likely its draw was. So there are no importance weights, and the library
# says so in words instead of returning a number:

# %%
try:
    run.pair.cloud(x_test)
except ValueError as error:
    print(error)

# %% [markdown]
# ## The estimate is no bound
#
# Training reports `estimate`: $E_q[\log p(x \mid z) - T(x,z)]$ with the critic as it is. A weak critic overlooks part
# of the divergence, and the estimate stands *above* $\log p(x)$. The published AVB row on MNIST is such a case:
# $-83.6$ reported, $-91.2$ by annealed importance sampling. With two latents $\log p(x)$ is known by quadrature:

# %%
exact = log_evidence(run.model, None, x_train[:200], Quadrature())
excess = warn_if_above(run.history, exact)
print(f"log p(x) {exact.mean:.3f} ± {exact.standard_error:.3f}; estimate minus log p(x): {excess:+.3f} nats")
run.history[["step", "estimate", "critic_loss", "critic_accuracy"]].tail(3)

# %% [markdown]
# ## Adaptive contrast
#
# Where the guide is much narrower than the prior, every draw is told apart and the critic's log-ratio is anybody's
# guess. With `adaptive_contrast=True` the critic compares *standardised* draws with $N(0, I)$, and a Gaussian with the
# guide's own mean and variance carries the rest. A run whose critic has saturated stops and says so:

# %%
far_off = guides.Implicit(networks.MLP(1 + 8, 2, hidden=[16]), latent_dim=2, noise_dim=8)
torch.nn.init.constant_(far_off.network.layers[-1].bias, 8.0)
stuck = {player: partial(torch.optim.Adam, lr=1e-2 if player == "critic" else 0.0) for player in objective.trains}
watched = AdversarialVB(critic=objective.critic, patience=20)
lost = fit(model, far_off, x_train[:500], objective=watched, optimizer=stuck, steps=200, batch_size=100, progress=False)
print(lost.settings["stopped"])

# %% [markdown]
# `guides.NoiseBasis` is the paper's MNIST encoder: its mean and variance are known in closed form, so that the contrast
# costs nothing. For any other guide they are taken over `moment_samples` draws.
#
# ## Four patterns (the paper's Table 1)
#
# Four 2 × 2 images, one pixel lit in each. No model gets past $-\log 4 = -1.386$. Four normal posteriors leave gaps
# between them or overlap; implicit ones tile the prior. (`aevb reproduce avb-toy` trains longer.)

# %%
from aevb.reproductions import avb_toy

vae = avb_toy.fit_vae(avb_toy.Settings(steps=steps(6000), lr=1e-4, decay=True))
avb = avb_toy.fit_avb(
    avb_toy.Settings(steps=steps(3000), batch_size=256, lr=1e-3, critic_lr=1e-3, width=128, num_blocks=2, decay=True)
)
figure = avb_toy.draw_latents({"VAE": vae, "AVB": avb})
for name, loop in {"VAE": vae, "AVB": avb}.items():
    print(f"{name}: log p(x) = {log_evidence(loop.run.model, None, torch.eye(4), Quadrature(avb_toy.NODES)).mean:.3f}")

# %% [markdown]
# ## Eight schools: latents that are global
#
# All ten latents belong to the whole table, so that the table is *one* datapoint, `y` of shape `[1, 8]`. $\tau$ may be
# negative, and $(\tau, \eta) \to (-\tau, -\eta)$ changes nothing: there are two modes. One implicit draw of ten numbers
# feeds the three named sites.

# %%
from aevb.reproductions import avb_eight_schools as schools

data = schools.load("avb")
settings = schools.AVBSettings(
    steps=steps(2500), lr=5e-4, critic_lr=1e-3, width=128, num_blocks=2, num_samples=256, decay=True
)
normal = schools.fit_autoguide(schools.NORMALS["full-rank VB"], data, steps=steps(2000))
sets = {
    "NUTS": schools.reference(data, draws=40 if SMOKE else 2000, seed=0),
    "full-rank VB": normal.sample((2000,)),
    "AVB + AC": schools.fit_avb(data, settings, draws=2000, adaptive_contrast=True),
}
schools.draw_posteriors(sets)

# %% [markdown]
# The normal keeps one mode; AVB finds both. How far apart two sets of draws are is estimated from nearest neighbours:

# %%
from aevb.inference import sample_divergence

for name in ("full-rank VB", "AVB + AC"):
    print(f"KL({name} || NUTS) ≈ {sample_divergence(sets[name], sets['NUTS'], k=5):.2f} nats")
divergence, error = schools.exact_divergence(normal, data)
print(f"by its bound and quadrature, KL(full-rank VB || posterior) = {divergence:.2f} ± {error:.2f} nats")

# %% [markdown]
# ## When to use it
#
# When the posterior's shape matters and no family fits it. The price: two players, whose step sizes must suit each
# other; no bound and no importance weights, so that the evidence comes from annealed importance sampling; and a critic
# that must see the whole gap between guide and reference, which adaptive contrast makes small. `Fit` is the same loop
# as for every objective: `loop.memory.critic` is the trained critic, `objective.log_ratio(loop.memory, (x,), z)` its
# $T$.
