#!/usr/bin/env bash
# diffusers 0.42.1, transformers 5.23.0, peft 0.21.2: a LoRA of a text encoder whose file lacks one of a pair of matrices is loaded; the
# missing one is drawn at random, another one each time. Of the U-Net it stays empty, and the pipeline cannot be moved. The script
# fails when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0
"$work/env/bin/python" -W ignore - <<'PY'
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
def loaded(whole):
    words = CLIPTextModel(CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2))
    down, up = ('DownBlock2D', 'CrossAttnDownBlock2D'), ('CrossAttnUpBlock2D', 'UpBlock2D')
    net = UNet2DConditionModel(block_out_channels=(8, 8), norm_num_groups=4, cross_attention_dim=8, attention_head_dim=4,
                               down_block_types=down, up_block_types=up)
    pipe = StableDiffusionPipeline(AutoencoderKL(), words, None, net, DDIMScheduler(), None, None, requires_safety_checker=False)
    words, net = 'text_encoder.encoder.layers.0.self_attn', 'unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1'
    stems = f'{words}.q_proj', f'{net}.to_q', f'{words}.k_proj'
    lora = {f'{k}.lora_B.weight': torch.ones(8, 2) for k in stems}
    lora |= {f'{k}.lora_A.weight': torch.ones(2, 8) for k in (stems if whole else stems[2:])}
    pipe.load_lora_weights(lora, adapter_name='a')
    first = lambda net: next(p for k, p in net.named_parameters() if 'lora_A' in k and ('q_proj' in k or 'to_q' in k))
    return first(pipe.text_encoder), first(pipe.unet).is_meta
ones = torch.ones(2, 8)
(a, empty), (b, _), (c, filled) = loaded(False), loaded(False), loaded(True)
print('of the file:', torch.equal(c, ones), '- drawn:', not torch.equal(a, ones), '- twice alike:', torch.equal(a, b))
assert torch.equal(c, ones) and not torch.equal(a, ones) and not torch.equal(a, b) and empty and not filled
PY
