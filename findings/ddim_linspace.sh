#!/usr/bin/env bash
# diffusers 0.42.1: DDIMScheduler accepts timestep_spacing='linspace' and spreads its timesteps 999/(n - 1) apart, but each step goes
# 1000//n down. So after every step the latents hold another amount of noise than the next timestep tells the network.
# With 'leading' and 'trailing' the two agree. The script fails when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0
"$work/env/bin/python" - <<'PY'
import torch
from diffusers import DDIMScheduler

def gap(spacing):
    "Largest gap between the noise left after a step, as a share of variance, and what the next timestep says"
    s = DDIMScheduler(timestep_spacing=spacing, clip_sample=False)
    s.set_timesteps(10)
    gaps, x = [], torch.ones(1)
    for t, later in zip(s.timesteps, s.timesteps[1:]):
        after = s.step(torch.zeros(1), t, x).prev_sample                     # no noise predicted: the image is scaled alone
        left = 1 - s.alphas_cumprod[t]*(after/x)**2
        gaps.append((left - (1 - s.alphas_cumprod[later])).abs().item())
    return round(max(gaps), 4), s.timesteps.tolist()

for spacing in ('leading', 'trailing', 'linspace'): print(spacing, gap(spacing))
assert gap('leading')[0] < .001 and gap('trailing')[0] < .001 and gap('linspace')[0] > .01
PY
