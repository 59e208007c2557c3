#!/usr/bin/env bash
# diffusers 0.42.1, FasterCache: the weight of a frequency band multiplies the kept difference itself at each skipped call, so it
# compounds: with a weight of 1.1 the differences that are used are 1.1, 1.21 and 1.331 times the measured one. The documentation calls
# it the weight by which the updates are scaled. The script fails when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0
HF_HUB_OFFLINE=1 HF_HOME="$work/home" "$work/env/bin/python" -W ignore - <<'PY'
import torch
from diffusers.hooks import FasterCacheConfig, apply_faster_cache

class Net(torch.nn.Module):
    "Predicts 3 for the unconditional half of a batch and 1 for the other, so the difference is always 2"
    def forward(self, hidden_states):
        n = len(hidden_states)
        vals = [3.]*(n//2) + [1.]*(n//2) if n > 1 else [1.]
        return (torch.tensor(vals)[:, None, None, None].expand(n, 4, 8, 8).clone(),)

net = Net()
weight = lambda module: 1.1
apply_faster_cache(net, FasterCacheConfig(
    unconditional_batch_skip_range=4, unconditional_batch_timestep_skip_range=(-1, 1001), tensor_format='BCHW',
    current_timestep_callback=lambda: 500, attention_weight_callback=lambda module: .5,
    low_frequency_weight_callback=weight, high_frequency_weight_callback=weight))
seen = []
for step in range(4):
    u, t = net(hidden_states=torch.zeros(2, 4, 8, 8))[0]
    seen.append((u - t).mean().item())
print('used, of the measured difference:', [round(d/2, 3) for d in seen])
for k, d in enumerate(seen): assert abs(d/2 - 1.1**k) < 1e-3, seen
PY
