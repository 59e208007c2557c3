#!/usr/bin/env bash
# diffusers 0.42.1: FluxTransformer2DModel.from_single_file cuts the matrices of the single blocks at 3072, whatever its config says: a
# file of another width cannot be read. And DiffusionPipeline.from_single_file does not find the text encoders of the folder that it is
# given as `config`: it looks for diffusion_pytorch_model.safetensors, while transformers writes model.safetensors. The script fails
# when that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0
cd "$work"
"$work/env/bin/python" -W ignore - <<'PY'
import inspect, os
from diffusers.loaders import single_file_utils as u
from transformers import CLIPTextConfig, CLIPTextModel
CLIPTextModel(CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)).save_pretrained('m/text_encoder')
there, found = os.listdir('m/text_encoder'), u._is_model_weights_in_cached_folder('m', 'text_encoder')
fixed = 'inner_dim = 3072' in inspect.getsource(u.convert_flux_transformer_checkpoint_to_diffusers)
print(sorted(there), 'found:', found, '- width fixed:', fixed)
assert 'model.safetensors' in there and not found and fixed
PY
