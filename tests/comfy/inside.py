"A ComfyUI in this process, asked by lines of JSON: run as `python inside.py FOLDER_OF_COMFYUI PACK WORK`"
import json, os, sys, traceback
from pathlib import Path
import torch

comfyui, pack, work = map(Path, sys.argv[1:4])
# the wheel of torchvision has a library for CUDA, which does not load here: the two names that it would define
_lib = torch.library.Library('torchvision', 'DEF')
_lib.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
_lib.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
sys.argv = ['main.py', '--cpu', '--use-pytorch-cross-attention', '--base-directory', str(work)]
sys.path.insert(0, str(comfyui))
for name in 'output input temp models custom_nodes user'.split(): (work/name).mkdir(parents=True, exist_ok=True)
import comfy.options
comfy.options.enable_args_parsing()
import asyncio
import execution, nodes
from safetensors.torch import save_file
from own_nodes import CALLS, KEPT, NODE_CLASS_MAPPINGS
# what the pack must do without; ComfyUI itself has taken what it wants of transformers
for name in 'diffusers transformers matplotlib ipywidgets anywidget nbdev IPython pandas cf_guidance'.split():
    sys.modules[name] = None

nodes.NODE_CLASS_MAPPINGS.update(NODE_CLASS_MAPPINGS)

class Server:
    client_id = last_node_id = last_prompt_id = None
    sockets_metadata, events = {}, []
    def send_sync(self, event, data, sid=None): self.events.append((event, data))

async def load(files):
    for f in files:
        assert await nodes.load_custom_node(str(f), module_parent='custom_nodes'), f

EXTRAS = 'custom_sampler cfg apg pag sag tcfg mahiro fresca slg perpneg model_advanced cond curve latent'.split()
asyncio.run(load([f for name in EXTRAS if (f := comfyui/f'comfy_extras/nodes_{name}.py').exists()]))
if pack.exists(): asyncio.run(load([pack]))

def new_executor():
    return execution.PromptExecutor(Server(), cache_args={'lru': 0, 'ram': 4., 'ram_inactive': 1.})

def ran(executor, prompt):
    "Run one item of the queue; the error of a node, if there is one, and what the nodes show"
    ends = [k for k, v in prompt.items() if getattr(nodes.NODE_CLASS_MAPPINGS[v['class_type']], 'OUTPUT_NODE', False)]
    valid = asyncio.run(execution.validate_prompt('it', prompt, None))
    if not valid[0]: return dict(error=json.dumps([valid[1], valid[3]], default=str), ui={})
    executor.execute(prompt, 'it', {}, ends)
    failed = [d for e, d in executor.status_messages if e in ('execution_error', 'execution_interrupted')]
    said = failed and failed[0].get('exception_message', 'interrupted')
    if failed and os.environ.get('COMFY_TRACE'): sys.stderr.write(''.join(failed[0].get('traceback', [])))
    return dict(error=said or None, ui=executor.history_result['outputs'])

def answer(asked):
    "Run the items of a queue in one executor, one after the other"
    KEPT.clear(); CALLS.clear()
    executor, res = new_executor(), []
    for prompt in asked['queue']:
        n = len(CALLS)
        res.append(dict(ran(executor, prompt), calls=CALLS[n:]))
    if KEPT: save_file(dict(KEPT), asked['out'])
    return res

def main():
    out = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)                       # what ComfyUI prints goes to the log
    from comfy.samplers import SAMPLER_NAMES
    print(json.dumps(dict(nodes=sorted(nodes.NODE_CLASS_MAPPINGS), samplers=SAMPLER_NAMES)), file=out, flush=True)
    for line in sys.stdin:
        try: res = answer(json.loads(line))
        except Exception: res = dict(broken=traceback.format_exc())
        print(json.dumps(res, default=str), file=out, flush=True)

if __name__ == '__main__': main()
