"A ComfyUI in this process, asked by lines of JSON: run as `python inside.py FOLDER_OF_COMFYUI PACK WORK`"
import json, math, os, sys, traceback
from pathlib import Path
import torch

comfyui, pack, work = map(Path, sys.argv[1:4])
root = Path(__file__).parents[2]
# the wheel of torchvision has a library for CUDA, which does not load here: the two names that it would define
_lib = torch.library.Library('torchvision', 'DEF')
_lib.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
_lib.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
sys.argv = ['main.py', '--cpu', '--use-pytorch-cross-attention', '--base-directory', str(work)]
sys.path.insert(0, str(comfyui))
for name in 'output input temp models custom_nodes user'.split(): (work/name).mkdir(parents=True, exist_ok=True)
import comfy.options
comfy.options.enable_args_parsing()
import asyncio, types
import comfy.latent_formats, comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.model_base, comfy.model_patcher, comfy.ops, comfy.samplers, comfy.supported_models_base, comfy.utils
import execution, nodes
from safetensors.torch import load_file, save_file
# what the pack must do without; ComfyUI itself has taken what it wants of transformers
for name in 'diffusers transformers matplotlib ipywidgets anywidget nbdev IPython pandas cf_guidance'.split():
    sys.modules[name] = None

class Times(int):
    "Times so many channels, in whole numbers"
    def __new__(cls, of, to): self = super().__new__(cls, 1); self.to = to; return self
    def __mul__(self, by): return self.to
    __rmul__ = __mul__

def ops_of(groups):
    "ComfyUI's layers, with so many groups in a norm"
    class Ops(comfy.ops.disable_weight_init):
        class GroupNorm(comfy.ops.disable_weight_init.GroupNorm):
            def __init__(self, num_groups=32, *args, **kwargs): super().__init__(groups, *args, **kwargs)
    return Ops

def latent_format(channels):
    return type('Latents', (comfy.latent_formats.LatentFormat,), dict(latent_channels=channels))

def config_of(own, heads):
    "What ComfyUI calls a U-Net's config, of one that diffusers describes"
    (one, two), c = own['block_out_channels'], own['in_channels']
    return dict(image_size=32, in_channels=c, out_channels=c, model_channels=one, num_res_blocks=[1, 1],
                channel_mult=[Times(one, one), Times(one, two)], num_heads=heads, transformer_depth=[0, 1],
                transformer_depth_middle=1, transformer_depth_output=[0, 0, 1, 1], use_spatial_transformer=True,
                context_dim=own['cross_attention_dim'], dtype=torch.float32)

class EpsilonUNet(openaimodel.UNetModel):
    "A network that predicts v, asked for epsilon"
    levels = None
    def forward(self, x, timesteps=None, **kwargs):
        v = super().forward(x, timesteps, **kwargs)
        low = timesteps.double().floor().long().clamp(0, len(self.levels) - 2)
        s = torch.lerp(self.levels[low], self.levels[low + 1], timesteps.double() - low).exp().view(-1, 1, 1, 1)
        size = (1 + s*s).sqrt()
        return (s/size).to(x)*x + (1/size).to(x)*v

def as_diffusers(sampling, levels):
    "Noise levels between two of the table have a timestep between two, as in diffusers; ComfyUI rounds it"
    def timestep(sigma):
        at = sigma.double().log()
        low = (torch.searchsorted(levels, at) - 1).clamp(0, len(levels) - 2)
        t = (low + (at - levels[low])/(levels[low + 1] - levels[low])).clamp(0, len(levels) - 1)
        return torch.where((t - t.round()).abs() < 1e-3, t.round(), t).float()
    sampling.timestep = timestep

CALLS = []                              # rows of each call of a network, since they were last asked for
class Counted(comfy.model_base.BaseModel):
    def _apply_model(self, x, *args, **kwargs):
        CALLS.append(len(x))
        return super()._apply_model(x, *args, **kwargs)

def model_of(kind, folder='shapes'):
    "A model of this library as ComfyUI's MODEL"
    kinds = comfy.model_base.ModelType
    where = root/'cf_guidance/models'/folder/'unet'
    own = json.loads((where/'config.json').read_text())
    cfg = config_of(own, own['attention_head_dim'][1])
    holder = type('Config', (comfy.supported_models_base.BASE,), dict(
        latent_format=latent_format(own['in_channels']), custom_operations=ops_of(own['norm_num_groups']),
        unet_extra_config={}))(cfg)
    type_ = dict(v=kinds.V_PREDICTION, epsilon=kinds.EPS, flow=kinds.FLOW)[kind]
    model = Counted(holder, type_, unet_model=EpsilonUNet if kind == 'epsilon' else openaimodel.UNetModel)
    names = comfy.utils.unet_to_diffusers(cfg)
    theirs = load_file(where/'diffusion_pytorch_model.safetensors')
    model.diffusion_model.load_state_dict({names[k]: v for k, v in theirs.items()}, strict=True)
    sampling = model.model_sampling
    if kind != 'flow':
        betas = torch.linspace(.00085**.5, .012**.5, 1000, dtype=torch.float32)**2
        kept = torch.cumprod(1 - betas, 0)
        sampling.set_sigmas(((1 - kept)/kept)**.5)
        levels = sampling.sigmas.double().log()
        as_diffusers(sampling, levels)
        model.diffusion_model.levels = levels
    return comfy.model_patcher.ModelPatcher(model.eval(), torch.device('cpu'), torch.device('cpu'))

class TestModel:
    RETURN_TYPES, FUNCTION, CATEGORY = ('MODEL',), 'make', 'test'
    made = {}
    @classmethod
    def INPUT_TYPES(cls): return {'required': {'kind': ('STRING', {}), 'folder': ('STRING', {'default': 'shapes'})}}
    def make(self, kind, folder):
        if (kind, folder) not in self.made: self.made[kind, folder] = model_of(kind, folder)
        return (self.made[kind, folder].clone(),)

class TestTensor:
    "CONDITIONING, LATENT, NOISE or SIGMAS from a file"
    RETURN_TYPES, FUNCTION, CATEGORY = ('CONDITIONING', 'LATENT', 'NOISE', 'SIGMAS'), 'make', 'test'
    @classmethod
    def INPUT_TYPES(cls): return {'required': {k: ('STRING', {'default': '{}'}) for k in ('file', 'name', 'more')}}
    def make(self, file, name, more):
        x = load_file(file)[name]
        noise = types.SimpleNamespace(seed=1, generate_noise=lambda latent: x.clone())
        return [[x.float(), json.loads(more)]], {'samples': x.clone()}, noise, x.float()

KEPT = {}
class TestKeep:
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), 'keep', 'test', True
    @classmethod
    def INPUT_TYPES(cls): return {'required': {'latent': ('LATENT',), 'name': ('STRING', {})}}
    def keep(self, latent, name):
        KEPT[name] = latent['samples'].clone().contiguous()
        return {'ui': {}}

class TestInterrupt:
    "A MODEL whose sampler is interrupted after so many calls"
    RETURN_TYPES, FUNCTION, CATEGORY = ('MODEL',), 'make', 'test'
    @classmethod
    def INPUT_TYPES(cls): return {'required': {'model': ('MODEL',), 'after': ('INT', {})}}
    def make(self, model, after):
        seen, model = [], model.clone()
        def count(args):
            seen.append(1)
            if len(seen) > after: raise comfy.model_management.InterruptProcessingException()
            return args['denoised']
        model.set_model_sampler_post_cfg_function(count)
        return (model,)

class TestText:
    "A text that a node made"
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), 'keep', 'test', True
    @classmethod
    def INPUT_TYPES(cls): return {'required': {'text': ('STRING', {'forceInput': True})}}
    def keep(self, text): return {'ui': {'text': [text]}}

for cls in (TestModel, TestTensor, TestKeep, TestInterrupt, TestText): nodes.NODE_CLASS_MAPPINGS[cls.__name__] = cls

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
    import io
    out = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)                       # what ComfyUI prints goes to the log
    print(json.dumps({'ready': sorted(nodes.NODE_CLASS_MAPPINGS)}), file=out, flush=True)
    for line in sys.stdin:
        try: res = answer(json.loads(line))
        except Exception: res = dict(broken=traceback.format_exc())
        print(json.dumps(res, default=str), file=out, flush=True)

if __name__ == '__main__': main()
