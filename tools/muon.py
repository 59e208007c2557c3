"""Muon (Jordan et al. 2024) for small networks: the update of each matrix or convolution is its momentum, made orthogonal."""
import torch

COEFFICIENTS = (4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913,
                                                                      2.3037), (2.8769, -3.1427,
                                                                                1.2046), (2.8366, -3.0525, 1.2012)

def orthogonal(g):
    "Matrices, (n, rows, columns), whose singular values are moved close to 1 by a Newton-Schulz iteration in bfloat16"
    x, tall = g.bfloat16(), g.size(-2) > g.size(-1)
    if tall: x = x.mT
    x = x/(x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in COEFFICIENTS:
        s = x @ x.mT
        x = a*x + (b*s + c*(s @ s)) @ x
    return (x.mT if tall else x).float()

class Muon:
    "Muon for matrices and convolutions with 16 rows and columns or more, AdamW for the rest; `skip` names parts left to AdamW"
    def __init__(self, net, decay=1e-3, momentum=.95, betas=(.9, .99), skip=()):
        self.decay, self.momentum, self.of_shape, rest = decay, momentum, {}, []
        for name, p in net.named_parameters():
            if p.dim() > 1 and min(len(p), p[0].numel()) >= 16 and not any(s in name for s in skip):
                self.of_shape.setdefault((len(p), p[0].numel()), []).append(p)
            else: rest.append(p)
        self.mean = {p: torch.zeros_like(p) for ps in self.of_shape.values() for p in ps}
        self.adam = torch.optim.AdamW(rest, betas=betas, weight_decay=0., fused=True)

    def zero_grad(self):
        for p in self.mean: p.grad = None
        self.adam.zero_grad()

    @torch.no_grad()
    def step(self, rate):
        "One step; the update of a matrix is as large as AdamW's (Liu et al., arXiv 2502.16982)"
        for group in self.adam.param_groups: group['lr'] = rate
        self.adam.step()
        for (rows, columns), ps in self.of_shape.items():
            for p in ps: self.mean[p].lerp_(p.grad, 1 - self.momentum)
            ways = orthogonal(
                torch.stack([torch.lerp(p.grad, self.mean[p], self.momentum).reshape(rows, columns) for p in ps]))
            for p, way in zip(ps, ways):
                p.mul_(1 - rate*self.decay).add_(way.reshape(p.shape), alpha=-.2*rate*max(rows, columns)**.5)
