"""Muon: momentum whose update is replaced by the nearest semi-orthogonal matrix (K. Jordan, 2024)."""
import math

import torch


def orthogonalise(x):
    """[n, rows, columns], rows <= columns: five steps of a quintic Newton-Schulz iteration push all singular
    values to about 1."""
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if x.is_cuda:
        x = x.bfloat16()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.float()


class Muon(torch.optim.Optimizer):
    """For matrices; those of one shape are updated together."""

    def __init__(self, weights, lr, momentum=0.95, weight_decay=0.0):
        weights = list(weights)
        groups = [dict(params=[w for w in weights if w.shape == shape]) for shape in sorted({w.shape for w in weights})]
        super().__init__(groups, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            weights = group["params"]
            gradient = torch.stack([w.grad for w in weights])
            state = self.state[weights[0]]
            average = state.setdefault("momentum", torch.zeros_like(gradient))
            average.lerp_(gradient, 1 - group["momentum"])
            update = torch.lerp(gradient, average, group["momentum"])
            rows, columns = update.shape[1:]
            update = orthogonalise(update.mT).mT if rows > columns else orthogonalise(update)
            rate = group["lr"] * math.sqrt(max(1, rows / columns))
            for weight, one in zip(weights, update):
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(one, alpha=-rate)
