"The same models in our own loop"
import types
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from diffusers import FlowMatchHeunDiscreteScheduler, HeunDiscreteScheduler, KDPM2DiscreteScheduler
from cf_guidance.pieces import get_sd_pieces, text_embeddings
from cf_guidance.sampling import begin_run, sample_latents, start_noise

PROMPT, NEGATIVE, OTHER, SIZE = 'a red heart', 'a blue circle', 'a green star', (8, 8)
TABLE = dict(beta_start=.00085, beta_end=.012, beta_schedule='scaled_linear', timestep_spacing='trailing')
PREDICTS = dict(v='v_prediction', epsilon='epsilon')
# ComfyUI's name of a sampler: diffusers' class, and its arguments
SAMPLERS = dict(
    euler=(EulerDiscreteScheduler, {}), heun=(HeunDiscreteScheduler, {}), dpm_2=(KDPM2DiscreteScheduler, {}),
    dpmpp_2m=(DPMSolverMultistepScheduler, dict(final_sigmas_type='zero', lower_order_final=True)))

FLOW = dict(euler=FlowMatchEulerDiscreteScheduler, heun=FlowMatchHeunDiscreteScheduler)

class Epsilon(torch.nn.Module):
    "A network that predicts v, asked for epsilon"
    # under this name the passes that disturb a network find it
    def __init__(self, unet, levels):
        super().__init__()
        self.module, self.levels, self.config = unet, levels, unet.config
    dtype, device = property(lambda self: self.module.dtype), property(lambda self: self.module.device)
    def forward(self, x, timestep, encoder_hidden_states, **kwargs):
        t = torch.as_tensor(timestep).double().reshape(-1)
        low = t.floor().long().clamp(0, len(self.levels) - 2)
        s = torch.lerp(self.levels[low], self.levels[low + 1], t - low).exp().view(-1, 1, 1, 1)
        v = self.module(x, timestep, encoder_hidden_states=encoder_hidden_states, **kwargs).sample
        size = (1 + s*s).sqrt()
        return types.SimpleNamespace(sample=(s/size).to(x)*x + (1/size).to(x)*v)

def scheduler_of(kind, sampler='euler'):
    if kind == 'flow': return FLOW[sampler](shift=1.)
    cls, more = SAMPLERS[sampler]
    return cls(**TABLE, **more, prediction_type=PREDICTS[kind])

def pieces_of(kind):
    pieces = get_sd_pieces('shapes', device='cpu')
    about = dict(vars(pieces))
    s = scheduler_of(kind)
    if kind == 'epsilon':
        kept = s.alphas_cumprod
        pieces = pieces._replace(unet=Epsilon(pieces.unet, (((1 - kept)/kept)**.5).double().log()))
    pieces = pieces._replace(scheduler=s)
    vars(pieces).update(about)
    return pieces

class Ours:
    "One kind of prediction in our own loop"
    def __init__(self, kind, seed=1):
        self.kind, self.seed, self.pieces = kind, seed, pieces_of(kind)
        self.pos, self.neg, self.other = text_embeddings([PROMPT, NEGATIVE, OTHER], self.pieces).split(1)
        self.noise, _ = start_noise(seed, self.pieces, SIZE)

    def run(self, sampler, steps):
        "Scheduler, noise levels as ComfyUI takes them, and the noise scaled as diffusers does"
        scheduler = scheduler_of(self.kind, sampler)
        course = begin_run(self.pieces, scheduler, steps)
        s, levels = course.scheduler, course.sigmas
        if self.kind == 'flow': levels = [1. if v == float('inf') else v/(1 + v) for v in levels]
        sigmas = torch.tensor([*levels, 0.])
        if self.kind == 'flow': return scheduler, sigmas, self.noise
        top = sigmas[0].double()
        # latents begin at `init_noise_sigma`; ComfyUI begins at the root of 1 + sigma**2
        init = float(getattr(s, 'init_noise_sigma', 1.))
        if type(s).__name__ == 'DPMSolverMultistepScheduler': init = float((1 + top*top).sqrt())
        return scheduler, sigmas, (self.noise.double()*init/(1 + top*top).sqrt()).float()

    def latents(self, tfm, scheduler, steps):
        return sample_latents(PROMPT, tfm, self.pieces, seeds=[self.seed], negative_prompt=NEGATIVE, steps=steps,
                              sampler=scheduler, progress=False)
