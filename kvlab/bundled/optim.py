"""Optimizers and learning-rate schedule: Muon for the matrices inside layers, AdamW for the rest."""

from __future__ import annotations

import torch
from torch.optim import _muon


def _orthogonalise_float32(grad, ns_coefficients, ns_steps, eps):
    """PyTorch's Newton-Schulz iteration, kept in float32.

    torch.optim.Muon casts to bfloat16, which processors without bfloat16
    instructions multiply some hundred times slower than float32.
    """
    a, b, c = ns_coefficients
    x = grad.T if grad.size(0) > grad.size(1) else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(ns_steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if grad.size(0) > grad.size(1) else x


def build(model, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """[Muon over the layers' matrices, AdamW over embeddings and norms]; lr kept as `base_lr`."""
    _muon._zeropower_via_newtonschulz = _orthogonalise_float32
    inside = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(inside, lr=muon_lr, weight_decay=0.01, momentum=0.95, ns_steps=5),
        torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def scale(step: int, steps: int, decay: float = 0.4, warmup: int = 40, floor: float = 0.03) -> float:
    """Factor on the learning rates: warm-up, constant, linear decay over the last `decay` share."""
    left = (steps - step) / max(1.0, decay * steps)
    return min((step + 1) / warmup, max(floor, min(1.0, left)))
