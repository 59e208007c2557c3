"The nodes in a real ComfyUI, against our own loop and against ComfyUI's own nodes"
import itertools, json, math
import pytest, torch
from host import Graph, out
from ours import Ours
from cf_guidance.adapters.comfyui_nodes import rule_inputs
from cf_guidance.schedules import lift
from cf_guidance.transforms import TRANSFORMS, guidance

KINDS = 'v', 'epsilon', 'flow'
_OURS = {}
def ours(kind): return _OURS.get(kind) or _OURS.setdefault(kind, Ours(kind))

class Bench:
    "A workflow in the making: a model, two conditions, noise"
    def __init__(self, comfy, kind, sampler='euler', steps=7):
        self.comfy, self.own, self.steps, self.sampler = comfy, ours(kind), steps, sampler
        self.scheduler, self.sigmas, noise = self.own.run(sampler, steps)
        self.file = comfy.file(noise=noise, pos=self.own.pos, neg=self.own.neg, sigmas=self.sigmas,
                               empty=torch.zeros_like(noise), none=torch.zeros_like(noise))
        self.g = Graph()
        self.model = out(self.g.add('TestModel', kind=kind, folder='shapes'))

    def tensor(self, name, n, file=None, **more):
        "A tensor of the file: 0 CONDITIONING, 1 LATENT, 2 NOISE, 3 SIGMAS"
        return out(self.g.add('TestTensor', file=file or self.file, name=name, more=json.dumps(more)), n)

    def schedule(self, text):
        node = self.g.add('CFGuidanceSchedule', curve='expression', **{'curve.text': text})
        return out(node)

    def transform(self, rule, **params):
        "Our node; a parameter that is a text with a letter is a schedule"
        known = {k: said['default'] for k, (_, said) in rule_inputs()[rule].items()}
        given = {k: self.schedule(v) if isinstance(v, str) and k not in ('form', 'space') else v for k, v in params.items()}
        return out(self.g.add('CFGuidanceTransform', rule=rule, **{f'rule.{k}': v for k, v in {**known, **given}.items()}))

    def applied(self, guidance, model=None, **more):
        return out(self.g.add('CFGuidanceApply', model=model or self.model, guidance=guidance, record=False, **more))

    def guider(self, model, cfg=4., kind='CFGGuider', **conds):
        conds = conds or dict(positive=self.tensor('pos', 0), negative=self.tensor('neg', 0))
        return out(self.g.add(kind, model=model, cfg=cfg, **conds))

    def sampled(self, guider, sigmas=None, noise=None, latent=None, sampler=None):
        "The sampler's latents"
        kind = self.g.add('KSamplerSelect', sampler_name=sampler or self.sampler)
        return out(self.g.add('SamplerCustomAdvanced', noise=noise or self.tensor('noise', 2), guider=guider,
                              sampler=out(kind), sigmas=sigmas or self.tensor('sigmas', 3),
                              latent_image=latent or self.tensor('empty', 1)))

    def keep(self, latent, name='it'): self.g.add('TestKeep', latent=latent, name=name)

    def ran(self, error=None):
        "Latents by name, and the rows of each call of a network"
        (res,), kept = self.comfy.queue(self.g)
        if error is None: assert res['error'] is None, res['error']
        else: assert res['error'] and error in res['error'], res['error']
        return kept, res['calls']

def gap(a, b): return (a - b).abs().max().item()

def theirs(comfy, kind, rule, sampler='euler', steps=7, **params):
    "Latents of ComfyUI with our nodes, and of our own loop"
    b = Bench(comfy, kind, sampler, steps)
    b.keep(b.sampled(b.guider(b.applied(b.transform(rule, **params)))))
    kept, calls = b.ran()
    lifted = {k: lift(v) if isinstance(v, str) and k not in ('form', 'space') else v for k, v in params.items()}
    return kept['it'], b.own.latents(guidance(rule, **lifted), b.scheduler, steps), calls

RULES = [k for k, cls in TRANSFORMS.items() if not cls.weaker and k != 'cads' and not k.startswith('frame_')]
SCALES = {k: 'linear(.4, .1)' for k in ('t_norm', 'full_norm')}

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('rule', RULES)
def test_rule(comfy, kind, rule):
    got, want, _ = theirs(comfy, kind, rule, g=SCALES.get(rule, 'linear(6, 1.5)'))
    assert gap(got, want) <= 1e-5
