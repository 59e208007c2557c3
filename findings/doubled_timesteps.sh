#!/usr/bin/env bash
# diffusers 0.42.1: beta sigmas round the first two steps to one timestep, and the scheduler begins at the second of them.
# DPM++ 2M with 50 steps of beta sigmas then takes one step too few and dies with an IndexError after all network calls;
# with `set_begin_index(0)` before the run it ends. The script fails when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0
"$work/env/bin/python" - <<'PY'
import torch
from diffusers import DPMSolverMultistepScheduler

def run(begin):
    "Sample 50 steps of a model that predicts nothing; the number of steps taken, and the error"
    s = DPMSolverMultistepScheduler(use_beta_sigmas=True, beta_schedule='scaled_linear', beta_start=.00085, beta_end=.012)
    s.set_timesteps(50)
    if begin: s.set_begin_index(0)
    x, first = torch.ones(1, 1, 2, 2), None
    for k, t in enumerate(s.timesteps):
        try: x = s.step(torch.zeros_like(x), t, x).prev_sample
        except IndexError as e: return s.timesteps[:3].tolist(), k, type(e).__name__
        first = s.step_index - 1 if first is None else first
    return s.timesteps[:3].tolist(), first, 'ended'

print('by itself         ', run(False))
print('set_begin_index(0)', run(True))
first, second, *_ = run(False)[0]
assert first == second and run(False)[1:] == (49, 'IndexError')
assert run(True)[1:] == (0, 'ended')
PY
