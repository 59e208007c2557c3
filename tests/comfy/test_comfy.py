"The nodes in a real ComfyUI, against our own loop and against ComfyUI's own nodes"
import itertools, json, os
from pathlib import Path
import pytest, torch
from host import Graph, out
from ours import OTHER, Ours
from safetensors.torch import load_file, save_file
from cf_guidance.adapters.comfyui_nodes import rule_inputs
from cf_guidance.schedules import lift
from cf_guidance.transforms import TRANSFORMS, guidance

WORDS = 'layers', 'draw', 'form', 'space'
KINDS = 'v', 'epsilon', 'flow'
_OURS = {}
def ours(kind): return _OURS.get(kind) or _OURS.setdefault(kind, Ours(kind))

class Bench:
    "A workflow in the making: a model, two conditions, noise"
    def __init__(self, comfy, kind, sampler='euler', steps=7):
        self.comfy, self.own, self.steps, self.sampler = comfy, ours(kind), steps, sampler
        self.scheduler, self.sigmas, noise = self.own.run(sampler, steps)
        own = self.own
        self.file = comfy.file(noise=noise, pos=own.pos, neg=own.neg, other=own.other, sigmas=self.sigmas,
                               empty=torch.zeros_like(noise))
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
        given = {k: self.schedule(v) if isinstance(v, str) and k not in WORDS else v for k, v in params.items()}
        values = {f'rule.{k}': v for k, v in {**known, **given}.items()}
        return out(self.g.add('CFGuidanceTransform', rule=rule, **values))

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

def slack(b):
    "A second call divides the difference of two images by its noise level, and so their last bits"
    if b.sampler != 'heun': return 0.
    falls = [(p - q)/(2*q) for p, q in zip(b.sigmas.tolist(), b.sigmas.tolist()[1:]) if q > 0]
    return 4*torch.finfo(torch.float32).eps*max(falls)

def theirs(comfy, kind, rule, sampler='euler', steps=7, more=lambda b: {}, ours={}, **params):
    "How far the latents of ComfyUI with our nodes are from those of our own loop, and the calls"
    b = Bench(comfy, kind, sampler, steps)
    b.keep(b.sampled(b.guider(b.applied(b.transform(rule, **params), **more(b)))))
    kept, calls = b.ran()
    lifted = {k: lift(v) if k not in WORDS and isinstance(v, str) else v for k, v in params.items()}
    want = b.own.latents(guidance(rule, **lifted, **ours), b.scheduler, steps)
    return max(gap(kept['it'], want) - slack(b), 0.), calls, kept['it'], want

# those that make `t` in a way of their own: cads is below, and nag is refused
OWN_T = 'cads', 'nag'
RULES = [k for k, cls in TRANSFORMS.items() if not cls.weaker and k not in OWN_T and not k.startswith('frame_')]
# rules whose push grows with its own length, so that a last bit grows, too
SCALES = dict(t_norm='linear(.3, .1)', full_norm='linear(.3, .1)', power_law='linear(2, 1.1)')

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('rule', RULES)
def test_rule(comfy, kind, rule):
    assert theirs(comfy, kind, rule, g=SCALES.get(rule, 'linear(6, 1.5)'))[0] <= 1e-5

WEAK = dict(pag=dict(s='linear(2, .5)'), seg=dict(s='linear(2, .5)', blur=.7), slg=dict(s=1., layers='mid'),
            autoguidance=dict(g='linear(2.5, 1.2)'), tsg=dict(g='linear(2.5, 1.2)'),
            icg=dict(g='linear(2.5, 1.2)', draw='noise'), perp_neg=dict(beta=.8),
            compose=dict(g_other='linear(-2, 1.5)'), contrastive={}, sld=dict(s=20., warmup=2), cads={})
# parameters with which the weaker prediction has no weight; a scale of 1 for the others
OFF = dict(pag={'s': 0.}, seg={'s': 0.}, slg={'s': 0.}, perp_neg={'beta': 0.}, compose={'g_other': 0.},
           contrastive={'g_away': 0.}, sld={'s': 0.}, cads={'s': 0., 'tau1': .99, 'tau2': 1.})

@pytest.mark.parametrize('kind', ['v', 'epsilon'])
@pytest.mark.parametrize('rule', WEAK)
def test_weak(comfy, kind, rule):
    "Rules that read a weaker prediction: the same as in our own loop, and another than without it"
    texts = rule in ('perp_neg', 'compose', 'contrastive', 'sld')
    more = (lambda b: dict(other=b.tensor('other', 0))) if texts else (lambda b: {})
    given = {'g': 'linear(5, 1.5)', **WEAK[rule]}
    text = dict(text=OTHER) if texts else {}
    far, calls, got, _ = theirs(comfy, kind, rule, more=more, ours=text, **given)
    assert far <= 1e-5
    without = {**given, **OFF.get(rule, {'g': 1.})}
    _, fewer, plain, _ = theirs(comfy, kind, rule, more=more, ours=text, **without)
    assert gap(got, plain) > 1e-3
    # the call of the weaker prediction is left out where nothing reads it
    assert len(fewer) == 7 and len(calls) == (7 if rule == 'cads' else 14)

def test_weaker_model(comfy):
    "Autoguidance by a second MODEL"
    second = lambda b: dict(weak_model=out(b.g.add('TestModel', kind='v', folder='shapes-weak')))
    far, calls, *_ = theirs(comfy, 'v', 'autoguidance', more=second, ours=dict(weak_model='shapes-weak'),
                            g='linear(2.5, 1.2)')
    assert far <= 1e-5 and calls == [1]*14

def test_other_text_must_be_there(comfy):
    b = Bench(comfy, 'v')
    b.keep(b.sampled(b.guider(b.applied(b.transform('perp_neg', g=4.)))))
    b.ran('`other` must be the CONDITIONING of the other text')

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('sampler,steps', itertools.product(('euler', 'heun', 'dpm_2', 'dpmpp_2m'), (7, 50)))
def test_sampler(comfy, kind, sampler, steps):
    "A rule without a memory, and one with a memory, which counts a step once"
    if kind == 'flow' and sampler in ('dpm_2', 'dpmpp_2m'): pytest.skip('diffusers has no such sampler for a flow')
    for rule in ('rescale', 'momentum'):
        assert theirs(comfy, kind, rule, sampler, steps, g='linear(5, 1.5)')[0] <= 1e-5, rule

def test_calls_left_out(comfy):
    "Where only `t` is read, the network has one row"
    window = 'constant(5).within((.3, 4))'
    for rule in ('cfg', 'rescale'):
        b = Bench(comfy, 'v', steps=9)
        b.keep(b.sampled(b.guider(b.applied(b.transform(rule, g=window)))))
        kept, calls = b.ran()
        inside = [.3 < s <= 4 for s in b.sigmas[:-1].tolist()]
        assert calls == [2 if i else 1 for i in inside] and 0 < sum(inside) < 9
        assert gap(kept['it'], b.own.latents(guidance(rule, g=lift(window)), b.scheduler, 9)) <= 1e-5

def test_runs_do_not_see_each_other(comfy):
    "Two samplers of one model in one graph, and two items of a queue"
    want, items = None, []
    for n in (1, 2):
        b = Bench(comfy, 'v')
        model = b.applied(b.transform('momentum', g='linear(5, 2)'))
        for k in range(n): b.keep(b.sampled(b.guider(model, cfg=4. + k)), f'run{n}{k}')
        items.append(b.g)
    res, kept = comfy.queue(*items, items[0])
    assert [r['error'] for r in res] == [None]*3 and len(kept) == 3
    want = b.own.latents(guidance('momentum', g=lift('linear(5, 2)')), b.scheduler, 7)
    assert gap(kept['run10'], want) <= 1e-5
    assert all(torch.equal(v, kept['run10']) for v in kept.values())

def test_interrupted(comfy):
    "A run that was interrupted has no effect on the next one"
    def item(after, name):
        b = Bench(comfy, 'v')
        model = b.applied(b.transform('momentum', g='linear(5, 2)'))
        model = out(b.g.add('TestInterrupt', model=model, after=after))
        b.keep(b.sampled(b.guider(model)), name)
        return b.g
    res, kept = comfy.queue(item(99, 'one'), item(3, 'no'), item(99, 'two'))
    assert [r['error'] for r in res] == [None, 'interrupted', None]
    assert len(res[1]['calls']) == 4 and set(kept) == {'one', 'two'} and torch.equal(kept['one'], kept['two'])

@pytest.mark.parametrize('kind', KINDS)
def test_halves(comfy, kind):
    "Two samplers that make the halves of a run, told of the whole, make what one makes"
    def halves(b, **more):
        whole = b.tensor('sigmas', 3)
        model = b.applied(b.schedule('linear(6, 1)'), **more)
        split = b.g.add('SplitSigmas', sigmas=whole, step=4)
        guider = b.guider(model)
        middle = b.sampled(guider, out(split, 0))
        return b.sampled(guider, out(split, 1), noise=out(b.g.add('DisableNoise')), latent=middle)
    b = Bench(comfy, kind, steps=9)
    b.keep(b.sampled(b.guider(b.applied(b.schedule('linear(6, 1)')))), 'one')
    b.keep(halves(b, sigmas=b.tensor('sigmas', 3)), 'told')
    b.keep(halves(b), 'untold')
    kept, _ = b.ran()
    assert gap(kept['told'], kept['one']) <= 1e-5 and gap(kept['untold'], kept['one']) > .05

CORE = {
    'RescaleCFG': dict(multiplier=.7), 'PerturbedAttentionGuidance': dict(scale=2.), 'CFGZeroStar': {},
    'APG': dict(eta=.5, norm_threshold=3., momentum=-.5), 'CFGNorm': dict(strength=1., pre_cfg=False),
    'SelfAttentionGuidance': dict(scale=.5, blur_sigma=2.), 'TCFG': {}, 'Mahiro': {},
    'FreSca': dict(scale_low=1., scale_high=1.25, freq_cutoff=2)}

@pytest.mark.parametrize('node', CORE)
def test_core_nodes(comfy, node):
    "A node of ComfyUI beside plain guidance at a constant scale: to the bit what it makes alone at that scale"
    if node not in comfy.nodes: pytest.skip(f'this ComfyUI has no {node}')
    b = Bench(comfy, 'v')
    made = lambda model: out(b.g.add(node, model=model, **CORE[node]))
    b.keep(b.sampled(b.guider(made(b.model), cfg=4.5)), 'alone')
    b.keep(b.sampled(b.guider(b.model, cfg=4.5)), 'without')
    b.keep(b.sampled(b.guider(b.applied(b.schedule('4.5'), made(b.model)), cfg=1.)), 'before')
    b.keep(b.sampled(b.guider(made(b.applied(b.schedule('4.5'))), cfg=9.)), 'after')
    kept, _ = b.ran()
    assert torch.equal(kept['before'], kept['alone']) and torch.equal(kept['after'], kept['alone'])
    assert not torch.equal(kept['alone'], kept['without'])

@pytest.mark.parametrize('node', ['PerturbedAttentionGuidance', 'CFGZeroStar', 'CFGNorm'])
def test_rule_beside_core_node(comfy, node):
    "A node that acts after guidance acts on what a rule gives, too"
    b = Bench(comfy, 'v')
    made = lambda model: out(b.g.add(node, model=model, **CORE[node]))
    ruled = b.transform('rescale', g='linear(5, 2)')
    b.keep(b.sampled(b.guider(b.applied(ruled))), 'rule')
    b.keep(b.sampled(b.guider(b.applied(ruled, made(b.model)))), 'before')
    b.keep(b.sampled(b.guider(made(b.applied(ruled)))), 'after')
    kept, _ = b.ran()
    assert torch.equal(kept['before'], kept['after']) and gap(kept['before'], kept['rule']) > 1e-3

# all that ComfyUI 0.30.0 has; the older one lacks some
SAMPLERS = '''euler euler_cfg_pp euler_ancestral euler_ancestral_cfg_pp heun heunpp2 exp_heun_2_x0 exp_heun_2_x0_sde dpm_2
dpm_2_ancestral lms dpm_fast dpm_adaptive dpmpp_2s_ancestral dpmpp_2s_ancestral_cfg_pp dpmpp_sde dpmpp_2m dpmpp_2m_cfg_pp
dpmpp_2m_sde dpmpp_2m_sde_heun dpmpp_3m_sde ddpm lcm ipndm ipndm_v deis res_multistep res_multistep_cfg_pp
res_multistep_ancestral res_multistep_ancestral_cfg_pp gradient_estimation gradient_estimation_cfg_pp er_sde seeds_2 seeds_3
sa_solver sa_solver_pece ddim uni_pc uni_pc_bh2'''.split()

@pytest.mark.parametrize('sampler', SAMPLERS)
def test_core_samplers(comfy, sampler):
    "At a constant scale, every sampler makes what it makes with ComfyUI's own scale, to the bit"
    if sampler not in comfy.samplers: pytest.skip(f'this ComfyUI has no {sampler}')
    b = Bench(comfy, 'v')
    for name, model, cfg in (('core', b.model, 3.), ('ours', b.applied(b.schedule('3')), 8.), ('one', b.model, 1.),
                             ('ours one', b.applied(b.schedule('1')), 8.)):
        b.keep(b.sampled(b.guider(model, cfg), sampler=sampler), name)
    kept, _ = b.ran()
    assert torch.equal(kept['ours'], kept['core']) and torch.equal(kept['ours one'], kept['one'])
    assert not torch.equal(kept['one'], kept['core'])

def test_every_sampler_is_tested(comfy):
    gpu = {f'{k}_gpu' for k in SAMPLERS}
    assert set(comfy.samplers) - gpu <= set(SAMPLERS)

TWO_CALLS = 'heun', 'dpm_2', 'dpmpp_2s_ancestral', 'dpmpp_sde'

@pytest.mark.parametrize('sampler', [*TWO_CALLS, 'heunpp2', 'dpm_adaptive', 'dpm_fast'])
def test_steps_of_calls(comfy, sampler):
    "All calls of a step have one scale, and it falls along the run"
    b = Bench(comfy, 'v', steps=9)
    apply = b.g.add('CFGuidanceApply', model=b.model, guidance=b.schedule('linear(9, 1)'), record=True)
    latent = b.sampled(b.guider(out(apply)), sampler=sampler)
    record = b.g.add('CFGuidanceRecord', record=out(apply, 1), latent=latent)
    b.g.add('TestText', text=out(record, 2))
    (res,), _ = comfy.queue(b.g)
    assert res['error'] is None
    (text,), = [v['text'] for v in res['ui'].values() if 'text' in v]
    head, *rows = [line.split('\t') for line in text.splitlines()]
    steps, scales = [int(r[0]) for r in rows], [float(r[2]) for r in rows]
    assert head[:3] == ['step', 'sigma', 'g asked'] and len(rows) == len(res['calls'])
    assert all(abs(g - (9 - k)) < 1e-3 for k, g in zip(steps, scales))
    assert set(steps) == set(range(9)) or sampler in ('dpm_adaptive', 'dpm_fast')
    if sampler in TWO_CALLS: assert steps == [k for k in range(9) for _ in range(2)][:-1]
    if sampler == 'heunpp2': assert steps == [k for k in range(7) for _ in range(3)] + [7, 7, 8]

def test_conditions(comfy):
    "Areas, several conditions and a batch: ComfyUI's own path, at a constant scale to the bit, and with a rule"
    b = Bench(comfy, 'v')
    area = out(b.g.add('ConditioningSetArea', conditioning=b.tensor('pos', 0), width=64, height=64, x=64, y=0,
                       strength=.8))
    both = out(b.g.add('ConditioningCombine', conditioning_1=area, conditioning_2=b.tensor('neg', 0)))
    noise = torch.randn(2, 8, 8, 16, generator=torch.Generator().manual_seed(2))
    file = comfy.file(noise=noise, empty=torch.zeros(2, 8, 8, 16))
    def made(model, name, cfg):
        guider = b.guider(model, cfg, positive=both, negative=b.tensor('neg', 0))
        b.keep(b.sampled(guider, noise=b.tensor('noise', 2, file), latent=b.tensor('empty', 1, file)), name)
    made(b.model, 'core', 3.)
    made(b.applied(b.schedule('3')), 'ours', 9.)
    made(b.applied(b.transform('rescale', g=3., phi=0.)), 'rule', 9.)
    kept, _ = b.ran()
    assert torch.equal(kept['ours'], kept['core']) and gap(kept['rule'], kept['core']) <= 1e-5
    assert kept['core'].shape == (2, 8, 8, 16)

def test_negative_that_ends(comfy):
    "Where the negative has ended by its range, the prediction is `t`"
    b = Bench(comfy, 'v', steps=9)
    late = out(b.g.add('ConditioningSetTimestepRange', conditioning=b.tensor('neg', 0), start=0., end=.5))
    for rule in ('cfg', 'rescale'):
        guider = b.guider(b.applied(b.transform(rule, g=4.)), positive=b.tensor('pos', 0), negative=late)
        b.keep(b.sampled(guider), rule)
    kept, calls = b.ran()
    ends = calls[:9].index(1)
    assert calls == [2]*ends + [1]*(9 - ends) + [2]*ends + [1]*(9 - ends) and 0 < ends < 9
    scales = [4.]*ends + [1.]*(9 - ends)
    for rule in kept: assert gap(kept[rule], b.own.latents(guidance(rule, g=scales), b.scheduler, 9)) <= 1e-5

def test_guiders(comfy):
    "A guider without a negative is left alone; one that combines in its own way is refused a rule"
    b = Bench(comfy, 'v')
    ours_, rule = b.applied(b.schedule('linear(6, 2)')), b.applied(b.transform('apg', g=4.))
    for name, model in (('core', b.model), ('ours', ours_), ('rule', rule)):
        b.keep(b.sampled(out(b.g.add('BasicGuider', model=model, conditioning=b.tensor('pos', 0)))), name)
    conds = dict(positive=b.tensor('pos', 0), negative=b.tensor('neg', 0))
    b.keep(b.sampled(b.guider(ours_, cfg=1.)), 'cfg')
    guider = b.g.add('CFGuidanceGuider', model=b.model, guidance=b.schedule('linear(6, 2)'), **conds)
    b.keep(b.sampled(out(guider)), 'scheduled')
    kept, _ = b.ran()
    assert torch.equal(kept['core'], kept['ours']) and torch.equal(kept['core'], kept['rule'])
    assert torch.equal(kept['cfg'], kept['scheduled']) and not torch.equal(kept['cfg'], kept['core'])

@pytest.mark.parametrize('how', ['dual', 'other rule', 'nag'])
def test_refused(comfy, how):
    b = Bench(comfy, 'v')
    model, pos, neg = b.applied(b.transform('apg', g=4.)), b.tensor('pos', 0), b.tensor('neg', 0)
    if how == 'nag':
        b.keep(b.sampled(b.guider(b.applied(b.transform('nag', g=4.)))))
        b.ran('`t` must be one that ComfyUI can make')
        return
    if how == 'dual':
        guider = out(b.g.add('DualCFGGuider', model=model, cond1=pos, cond2=pos, negative=neg, cfg_conds=3.,
                             cfg_cond2_negative=3., style='regular'))
        said = "'apg' must be in a CFGGuider or a KSampler"
    else:
        guider = b.guider(out(b.g.add('RescaleCFG', model=model, multiplier=.7)))
        said = 'another node has set `sampler_cfg_function`'
    b.keep(b.sampled(guider))
    b.ran(said)

def test_plain_ksampler(comfy):
    "KSampler, and KSamplerAdvanced in two parts"
    b = Bench(comfy, 'v')
    known = dict(positive=b.tensor('pos', 0), negative=b.tensor('neg', 0), latent_image=b.tensor('empty', 1), steps=8,
                 sampler_name='euler', scheduler='normal')
    sigmas = out(b.g.add('BasicScheduler', model=b.model, scheduler='normal', steps=8, denoise=1.))
    model = b.applied(b.schedule('linear(6, 1)'), sigmas=sigmas)
    b.keep(out(b.g.add('KSampler', model=model, seed=5, cfg=2., denoise=1., **known)), 'one')
    part = lambda **more: out(b.g.add('KSamplerAdvanced', model=model, noise_seed=5, cfg=2., **{**known, **more}))
    first = part(add_noise='enable', start_at_step=0, end_at_step=5, return_with_leftover_noise='enable')
    second = part(add_noise='disable', start_at_step=5, end_at_step=10000, return_with_leftover_noise='disable',
                  latent_image=first)
    b.keep(second, 'two')
    b.keep(out(b.g.add('KSampler', model=b.model, seed=5, cfg=2., denoise=1., **known)), 'core')
    kept, _ = b.ran()
    assert gap(kept['one'], kept['two']) <= 1e-5 and gap(kept['one'], kept['core']) > .05

PAGE = Path(__file__).parents[2]/'nbs/tutorials'

def test_page(comfy):
    "The latents that the page 'In ComfyUI' shows; written anew with COMFY_WRITE=1"
    cases = json.loads((PAGE/'in_comfyui.json').read_text())
    b = Bench(comfy, 'v', steps=20)
    for name, params in cases.items(): b.keep(b.sampled(b.guider(b.applied(b.transform(**params)))), name)
    kept, _ = b.ran()
    if os.environ.get('COMFY_WRITE'): save_file(kept, PAGE/'in_comfyui.safetensors')
    for name, latent in load_file(PAGE/'in_comfyui.safetensors').items(): assert gap(latent, kept[name]) <= 1e-5

def test_schedules_of_other_nodes(comfy):
    "A curve of ComfyUI's editor, and SIGMAS, as scales"
    b = Bench(comfy, 'v')
    scales = [5., 4., 3., 2., 2., 1., 1.]
    curve = out(b.g.add('CurveEditor', curve=dict(points=[[0., 0.], [1., 1.]], interpolation='linear')))
    ramp = b.g.add('CFGuidanceSchedule', curve='CURVE', **{'curve.points': curve, 'curve.low': 1., 'curve.high': 5.})
    sigmas = b.tensor('scales', 3, comfy.file(scales=torch.tensor(scales)))
    steps = b.g.add('CFGuidanceSchedule', curve='SIGMAS', **{'curve.values': sigmas})
    for name, node in dict(ramp=ramp, steps=steps).items(): b.keep(b.sampled(b.guider(b.applied(out(node)))), name)
    kept, calls = b.ran()
    for name, g in dict(ramp=lift('linear(1, 5)'), steps=scales).items():
        assert gap(kept[name], b.own.latents(guidance('cfg', g=g), b.scheduler, 7)) <= 1e-5
    assert calls[7:] == [2]*5 + [1]*2
