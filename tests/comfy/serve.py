"ComfyUI's own server: run as `python serve.py FOLDER_OF_COMFYUI ARGUMENTS...`"
import runpy, sys
from pathlib import Path
import torch

# as in inside.py
_lib = torch.library.Library('torchvision', 'DEF')
_lib.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
_lib.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
comfyui = Path(sys.argv[1])
sys.argv = [str(comfyui/'main.py'), *sys.argv[2:]]
sys.path.insert(0, str(comfyui))
for name in ('diffusers', 'matplotlib', 'ipywidgets', 'cf_guidance'): sys.modules[name] = None
runpy.run_path(sys.argv[0], run_name='__main__')
