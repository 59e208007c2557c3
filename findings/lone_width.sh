#!/usr/bin/env bash
# diffusers 0.42.1: StableDiffusionPipeline given a width without a height, or a height without a width, takes its own size for both,
# with no error and no warning. With a model of 32 pixels a width of 64 gives 32 x 32; with both given, 64 x 32. The script fails when
# that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0
"$work/env/bin/python" -W ignore - <<'PY'
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
blocks = dict(block_out_channels=(8, 8, 8, 8), norm_num_groups=4)
vae = AutoencoderKL(down_block_types=('DownEncoderBlock2D',)*4, up_block_types=('UpDecoderBlock2D',)*4, **blocks)
unet = UNet2DConditionModel(sample_size=4, block_out_channels=(8, 8), norm_num_groups=4, cross_attention_dim=8, attention_head_dim=4,
                            down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'), up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'))
pipe = StableDiffusionPipeline(vae, None, None, unet, DDIMScheduler(), None, None, requires_safety_checker=False)
pipe.set_progress_bar_config(disable=True)
text = dict(prompt_embeds=torch.zeros(1, 4, 8), negative_prompt_embeds=torch.zeros(1, 4, 8), num_inference_steps=1)
sizes = {k: pipe(**text, **dict(k)).images[0].size for k in ((), (('width', 64),), (('height', 64),), (('width', 64), ('height', 32)))}
for given, size in sizes.items(): print(dict(given), '->', size)
assert list(sizes.values()) == [(32, 32), (32, 32), (32, 32), (64, 32)]
PY
