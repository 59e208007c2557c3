#!/usr/bin/env bash
# diffusers 0.42.1: a scheduler made from another one's config takes over its betas, but only where they differ from *that* class's
# defaults as noted in `_use_default_values`. DDPM's own defaults (.0001 to .02) are lost on the way to Heun, whose defaults are
# .00085 to .012: the same model is sampled at other noise levels. The script fails when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0
"$work/env/bin/python" - <<'PY'
from diffusers import DDPMScheduler, HeunDiscreteScheduler
ddpm = DDPMScheduler()
plain = HeunDiscreteScheduler.from_config(ddpm.config)
kept = HeunDiscreteScheduler.from_config(dict(ddpm.config, _use_default_values=[]))
show = lambda s: (s.config.beta_start, s.config.beta_end)
print('DDPM', show(ddpm), '-> Heun', show(plain), '; with the note of defaults removed', show(kept))
assert show(ddpm) == (.0001, .02) == show(kept) and show(plain) == (.00085, .012)
PY
