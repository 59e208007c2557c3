"Nodes of the tests: a model of this library, tensors from files, and what keeps a result"
import json, types
from pathlib import Path
import torch
import comfy.latent_formats, comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.model_base, comfy.model_management, comfy.model_patcher, comfy.ops
import comfy.supported_models_base, comfy.utils
from safetensors.torch import load_file

root = Path(__file__).resolve().parents[2]

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

class TestDecode:
    "An image of the first three channels"
    RETURN_TYPES, FUNCTION, CATEGORY = ('IMAGE',), 'decode', 'test'
    @classmethod
    def INPUT_TYPES(cls): return {'required': {'latent': ('LATENT',)}}
    def decode(self, latent): return ((latent['samples'][:, :3]/4 + .5).clamp(0, 1).permute(0, 2, 3, 1),)

NODES = TestModel, TestTensor, TestKeep, TestInterrupt, TestText, TestDecode
NODE_CLASS_MAPPINGS = {cls.__name__: cls for cls in NODES}
