#!/usr/bin/env bash
# diffusers 0.42.1 (without accelerate): AutoencoderKL.from_single_file of a file that has every weight under its own name and one
# tensor besides, such as a count of training steps, takes the file for one in the original layout and renames it. 48 of 92 weights
# arrive, 44 stay as they were drawn at random, and there is no error and no warning. Without that tensor all 92 arrive. The script
# fails when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0
cd "$work"
"$work/env/bin/python" - <<'PY'
import warnings, torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
torch.manual_seed(0)
vae = AutoencoderKL(block_out_channels=(32,), norm_num_groups=8, layers_per_block=1)
vae.save_pretrained('config')
own = vae.state_dict()
save_file(own, 'whole.safetensors')
save_file({**own, 'step': torch.tensor(1)}, 'more.safetensors')
def arrived(file):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        got = AutoencoderKL.from_single_file(file, config='config').state_dict()
    return sum(torch.equal(got[k], own[k]) for k in own), len(own), len(said)
for file in ('whole.safetensors', 'more.safetensors'):
    print(file, '%d of %d weights, %d warnings' % arrived(file))
assert (arrived('whole.safetensors'), arrived('more.safetensors')) == ((92, 92, 0), (48, 92, 0))
PY
