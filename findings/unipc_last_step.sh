#!/usr/bin/env bash
# diffusers 0.42.1: three documented options of UniPC give NaN in the last step whatever the network says (solver_type='bh1',
# predict_x0=False, lower_order_final=False), and DPM-Solver++ with algorithm_type='sde-dpmsolver' and solver_order=3 raises
# UnboundLocalError in its third step. The script fails when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0
"$work/env/bin/python" - <<'PY'
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

def run(cls, **options):
    "What comes of 8 steps of a small constant prediction"
    s = cls(beta_schedule='scaled_linear', beta_start=.00085, beta_end=.012, **options)
    s.set_timesteps(8)
    x = torch.ones(1, 1, 2, 2)
    for k, t in enumerate(s.timesteps):
        try: x = s.step(.1*torch.ones_like(x), t, x).prev_sample
        except UnboundLocalError as e: return f'{type(e).__name__} in step {k}'
        if not x.isfinite().all(): return f'not finite in step {k}'
    return 'finite'

tried = [(UniPCMultistepScheduler, {}), (UniPCMultistepScheduler, dict(solver_type='bh1')), (UniPCMultistepScheduler, dict(predict_x0=False)),
         (UniPCMultistepScheduler, dict(lower_order_final=False)),
         (DPMSolverMultistepScheduler, dict(algorithm_type='sde-dpmsolver', solver_order=3, final_sigmas_type='sigma_min'))]
seen = [run(cls, **options) for cls, options in tried]
for (cls, options), said in zip(tried, seen): print(cls.__name__, options, said)
assert seen[0] == 'finite' and seen[1:4] == ['not finite in step 7']*3 and seen[4].startswith('UnboundLocalError')
PY
