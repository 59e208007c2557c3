#!/usr/bin/env bash
# diffusers 0.42.1: in Smoothed Energy Guidance the two branches of the blur are exchanged. A finite width gives the mean of all queries,
# and the Gaussian is used above the "infinite" threshold alone. The script fails when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0
"$work/env/bin/python" - <<'PY'
import torch
from diffusers.hooks.smoothed_energy_guidance_utils import _gaussian_blur_2d

tokens = torch.arange(64.).reshape(1, 64, 1)                              # a plane of 8 x 8, one channel
far = {s: (_gaussian_blur_2d(tokens.clone(), 3, s, 9999.) - tokens.mean()).abs().max().item() for s in (.5, 1., 100., 1e5)}
print('distance from the plain mean, by the width of the blur:', far)
assert all(far[s] < 1e-4 for s in (.5, 1., 100.)) and far[1e5] > 1
PY
