#!/usr/bin/env bash
# diffusers 0.42.1 with peft 0.21.2: StableDiffusion3Pipeline.load_lora_weights of a LoRA in the names that kohya's trainer gives SD3
# (lora_unet_joint_blocks_0_...) loads nothing, raises nothing, and says on the log that this is safe to ignore. A LoRA of the network
# in peft's names is loaded. The script fails when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0
"$work/env/bin/python" -W ignore - <<'PY'
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
def loaded(stem, down, up):
    net = SD3Transformer2DModel(sample_size=4, in_channels=4, num_layers=2, attention_head_dim=4, num_attention_heads=2,
                                joint_attention_dim=8, caption_projection_dim=8, pooled_projection_dim=6, out_channels=4)
    pipe = StableDiffusion3Pipeline(net, FlowMatchEulerDiscreteScheduler(), AutoencoderKL(), *[None]*6)
    pipe.load_lora_weights({f'{stem}.{down}.weight': torch.ones(2, 8), f'{stem}.{up}.weight': torch.ones(8, 2)}, adapter_name='a')
    return pipe.get_list_adapters()
found = [loaded('transformer.transformer_blocks.0.attn.to_q', 'lora_A', 'lora_B'),
         loaded('lora_unet_joint_blocks_0_x_block_attn_proj', 'lora_down', 'lora_up')]
print(found)
assert found == [{'transformer': ['a']}, {}]
PY
