"""Rules that are plain guidance by algebra, in every host: each transform has a row, which says at
which settings it is plain guidance, and with which scale.

Plain guidance drives a run, and at each of its steps each rule is asked too, with the predictions,
latents and shares that the host hands over. So one run in a host serves the whole table."""
import inspect, json, warnings
import diffusers as df, pytest, torch
import modular, test_families as families
from cf_guidance.adapters import guided
from cf_guidance.callbacks import guidance_callback
from cf_guidance.guiders import ScheduledGuider
from cf_guidance.kdiffusion import GuidedDenoiser
from cf_guidance.methods import TRANSFORMS, guidance
from cf_guidance.pieces import get_sd_pieces
from cf_guidance.sampling import sample_latents
from cf_guidance.schedules import Step, linear
from cf_guidance.toy import trees
from cf_guidance.toy_pieces import PREDICTS, toy_pieces
from cf_guidance.transforms import cfg, how_of

G = 5.
def plain(name, **params): return name, {'g': G, **params}, G
def scaled(name, g, scale=None, **params): return name, {'g': g, **params}, g if scale is None else scale

TABLE = [       # transform, its parameters, and the scale of plain guidance that it is: a number, or a function of the step
    plain('cfg'),
    scaled('base_norm', 0.), scaled('t_norm', 0.), scaled('full_norm', 0.),            # at other scales each changes lengths
    plain('magnitude_aware', alpha=0.), scaled('magnitude_aware', G, G + 1, alpha=0., form='paper'),
    plain('adaptive_guidance', threshold=1.), scaled('adaptive_guidance', G, lambda k: 1. if k else G, threshold=-1.),
    scaled('feedback', .5), scaled('feedback', 1.),                                    # above 1 its scale is its own
    plain('rescale', phi=0.), plain('rescale', phi=0., space='epsilon'), plain('rescale', phi=0., space='sample'),
    plain('renorm', k=0.), plain('cap_norm', k=0.),
    scaled('cfg_norm', 1.), scaled('token_norm', 1.),                                  # none but `t`: they cap or set each length by that of `t`
    plain('epsilon_scaling', factor=1.), plain('tsr', k=1.), plain('power_law', alpha=0.), plain('beta_norm', gamma=0.),
    plain('cads'),                                                                     # always: what it changes is how `t` is made
    plain('frame_linear', first=G), plain('frame_triangle', first=G),
    plain('fdg', g_low=G), plain('fresca', low=1., high=1.), scaled('fresca', G, 2*G, low=2., high=2.),
    plain('smc', k=0.),
    plain('apg', eta=1.), plain('apg', eta=1., form='diffusers'), plain('apg', eta=1., space='raw'),
    scaled('apg', G, G + 1, eta=1., form='comfyui'),
    plain('apg_mix', start=99), plain('apg_mix', late=1.), scaled('apg_mix', 3., G, late=G, start=-1, eta=1., r=0., beta=0., space='sample'),
    scaled('cfg_zero', 1., zero_steps=0), scaled('tcfg', 1.),                          # none but `t`: the `u` that they start from depends on `t`
    plain('recfg', k=1.),
    plain('static_threshold', limit=1e9), plain('dynamic_threshold', limit=1e9),
    plain('mimic', mimic=G), plain('mimic', mimic=1., phi=0.),
    plain('reinhard', multiplier=1e15),
    plain('skimmed', skim=G), plain('skimmed', skim=G, form='interpolate'), plain('skimmed', skim=2*G),
    scaled('adg', G, 1., angle=0.), scaled('adg', .5, 1.), scaled('mahiro', 1.),       # none but `t`: a turn, and a mixture with `g t`
    scaled('autoguidance', 1.), scaled('icg', 1.), scaled('tsg', 1.),                  # none but `t`: they read no `u`
    plain('pag', s=0.), plain('seg', s=0.), plain('slg', s=0.), plain('perp_neg', beta=0.), plain('compose', g_other=0.)]

def test_every_transform_has_a_row(): assert {name for name, *_ in TABLE} == set(TRANSFORMS)

def unit(dtype): return torch.finfo(dtype).eps/2

def tolerance(u, t, pred, step, g):
    """How far rounding can put a rule and plain guidance apart, number by number.

    Plain guidance rounds `d = t - u`, `g d` and the sum to the network's precision, and the rule its
    result. Inside, a rule works in float32 at least; a sum over n numbers, such as a norm, is off by
    about the root of n roundings. Between spaces it works in float64: a prediction of the noise has
    the share `a` of what the network says, beside `x`, and one of the image the share `b`; rounding
    grows by what divides that out again, which is 2^-26 at the least."""
    inner = torch.float64 if u.dtype == torch.float64 else torch.float32
    u, t, n = u.double(), t.double(), u[0].numel()
    size, d, steps = torch.maximum(u.abs(), t.abs()), (1 + abs(g))*(t - u).abs(), 8 + n**.5
    res = unit(pred.dtype)*2*(2*d + size) + unit(inner)*steps*(d + size)
    if step.x is None or not step.space: return res
    share = max(min(step.a, step.b)/(step.a + step.b), 2.**-26)
    return res + unit(torch.float64)*8*(1 + 2*abs(g))*(size + step.x.double().abs()/(step.a + step.b))/share

class Asked:
    "Plain guidance that asks every rule of the table at each step; `seen` are the steps, `wrong` what rounding does not explain"
    def __init__(self, table=TABLE, g=lambda k: G):
        self.g, self.seen, self.wrong, self.rows = g, [], [], [(name, params, scale, guidance(name, **params)) for name, params, scale in table]
    def __call__(self, u, t, idx):
        self.seen.append(idx)
        for name, params, scale, tfm in self.rows:
            g = scale(idx) if callable(scale) else scale
            names, want = tfm.needs(idx), cfg(u, t, g)
            assert names <= {'u', 't'} and (name == 'cads' or not any(how_of(tfm, k, idx) for k in names)), (name, params)
            got = tfm(*[p if k in names else None for k, p in (('u', u), ('t', t))], idx=idx)
            assert got.dtype == u.dtype and got.shape == u.shape
            off, most = (got.double() - want.double()).abs(), tolerance(u, t, want, idx, g)
            if not (off <= most).all(): self.wrong.append((name, params, idx, idx.space, idx.a, f'{(off/most).max():.3g} times what rounding explains'))
        return cfg(u, t, self.g(idx))

DTYPES = [torch.float32, torch.bfloat16]
def short(kw, dtype): return {k: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in kw.items()}

def zero_snr(**more):
    "A pipeline whose network predicts v, and whose run begins with noise alone"
    pipe, kw = families.FAMILIES['StableDiffusionPipeline'][1].FAMILIES['StableDiffusionPipeline']()
    conf = dict(rescale_betas_zero_snr=True, timestep_spacing='trailing', prediction_type='v_prediction', **more)
    pipe.scheduler = df.DDIMScheduler.from_config(pipe.scheduler.config, **conf)
    return pipe, kw

def family(name): return zero_snr() if name == 'zero terminal SNR' else families.FAMILIES[name][1].FAMILIES[name]()
def drawn(name, pipe, kw, n=4): return families.draw('StableDiffusionPipeline' if name == 'zero terminal SNR' else name, pipe, kw, 3., n)

SPACED = [r['name'] for r in families.ROWS.values() if r.get('spaces')]
NOISE_ALONE = ['zero terminal SNR', 'StableDiffusion3Pipeline', 'FluxPipeline+true_cfg', 'WanPipeline']
KINDS = ['StableDiffusionPipeline', *NOISE_ALONE]            # noise, v, flow; one doubled batch and two calls; tokens, video
HEAVY = [k for k in SPACED if k not in KINDS]

@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', KINDS + HEAVY)
def test_guided(name, dtype, every):
    "In the pipelines of diffusers, at every step"
    if not every and name not in KINDS: pytest.skip('one of the heavier cases')
    pipe, kw = family(name)
    if dtype == torch.bfloat16: pipe.to(dtype)
    asked = Asked([row for row in TABLE if row[0] != 'mimic' or 'Prior' not in name])      # a prior's predictions have no plane
    with warnings.catch_warnings(), guided(pipe, asked):
        warnings.simplefilter('ignore')
        drawn(name, pipe, short(kw, dtype))
    assert not asked.wrong and asked.seen[0] == 0 and asked.seen[-1] == asked.seen[-1].n - 1
    if name in NOISE_ALONE: assert asked.seen[0].a < 1e-3 and (name == 'WanPipeline' or asked.seen[0].a == 0)

@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', modular.HOSTS)
def test_guider(name, dtype, every):
    "In Modular Diffusers"
    if not every and (name not in ('sd3', 'sdxl') or dtype != torch.float32): pytest.skip('one of the heavier cases')
    pipe, kw = modular.HOSTS[name]()
    pipe.to(dtype)
    asked = Asked()
    pipe.update_components(guider=ScheduledGuider(asked, pipe))
    pipe(**short(kw, dtype), generator=torch.Generator().manual_seed(0))
    assert not asked.wrong and [int(k) for k in asked.seen] == list(range(6)) and all(k.x is not None for k in asked.seen)

@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_own_loop(dtype):
    "In our own loop: the built-in model, as it is and beginning with noise alone"
    pieces = get_sd_pieces(dtype=dtype, device='cpu')
    conf = dict(rescale_betas_zero_snr=True, timestep_spacing='trailing', clip_sample=False)
    for sampler in ('ddim', 'heun', df.DDIMScheduler.from_config(pieces.scheduler.config, **conf)):
        asked = Asked()
        sample_latents('a red star', asked, pieces, seeds=[1], steps=4, sampler=sampler, progress=False)
        assert not asked.wrong and {int(k) for k in asked.seen} == set(range(4))
    assert asked.seen[0].a == 0

@pytest.mark.parametrize('kind', PREDICTS)
def test_exact_network(kind):
    "In our own loop with a network that predicts exactly, in float64"
    asked = Asked()
    sample_latents('oak', asked, toy_pieces(trees(), kind), seeds=[1, 2], steps=5, progress=False)
    assert not asked.wrong and {k.space for k in asked.seen} == {kind} and len(asked.seen) == 5

@pytest.mark.parametrize('dtype', [*DTYPES, torch.float64], ids=str)
def test_denoiser(dtype):
    "Around a denoiser for k-diffusion, from sigmas that are huge to ones that are tiny"
    sigmas, asked = [1e9, 1e5, 80., 1., .002, 1e-6, 0.], Asked()
    means = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    def model(x, sigma, cond): return (cond.double() + (x.double() - cond.double())/(1 + sigma.double().view(-1, 1, 1, 1)**2)).to(x.dtype)
    den, x = GuidedDenoiser(model, asked, sigmas), sigmas[0]*means[:1].to(dtype)
    for s, s2 in zip(sigmas, sigmas[1:]):
        x = x + (x - den(x, torch.tensor([s], dtype=torch.float64), cond=means[1:2].to(dtype), uncond=means[2:].to(dtype)))*(s2/s - 1)
    assert not asked.wrong and [int(k) for k in asked.seen] == list(range(6)) and x.isfinite().all()

def test_callback():
    "A callback's scale is plain guidance, and so are the rules that are"
    name, sched = 'StableDiffusionPipeline', linear(6, 3)
    pipe, kw = family(name)
    want = families.draw(name, pipe, kw, 6., callback_on_step_end=guidance_callback(sched))
    table = [(k, {p: sched if v == G else v for p, v in params.items()}, lambda i: sched.values(4)[i]) for k, params, scale in TABLE if scale == G and k != 'cads']
    asked = Asked(table, lambda i: sched.values(4)[i])
    with guided(pipe, asked): got = families.draw(name, pipe, kw, 3.)
    assert not asked.wrong and len(asked.seen) == 4 and len(table) > 25 and torch.equal(got, want)      # one batch, on one machine

ACTING = dict(apg=dict(eta=1.), static_threshold=dict(limit=1e9), renorm=dict(k=0.), adaptive_guidance=dict(threshold=1.))

class Shaken:
    "Plain guidance, off by as much as rounding explains, in random directions"
    def __init__(self): self.gen = torch.Generator().manual_seed(0)
    def __call__(self, u, t, idx):
        pred = cfg(u, t, G)
        return pred + (tolerance(u, t, pred, idx, G)*torch.randn(u.shape, generator=self.gen).sign()).to(pred.dtype)

@pytest.mark.parametrize('name', NOISE_ALONE + [k for k in SPACED if k not in NOISE_ALONE])
def test_whole_runs(name, every):
    "A pipeline that is guided by a rule makes the image of plain guidance, with as many passes"
    if not every and name not in NOISE_ALONE[:2]: pytest.skip('one of the heavier cases')
    pipe, kw = family(name)
    def made(tfm):
        with warnings.catch_warnings(), guided(pipe, tfm) as host:
            warnings.simplefilter('ignore')
            return drawn(name, pipe, kw).double(), host.made
    want, passes = made(guidance('cfg', g=G))
    shaken = (made(Shaken())[0] - want).abs().max()
    assert shaken < .01*(made(guidance('cfg', g=lambda pos: G if pos else 1.))[0] - want).abs().max()      # it would be seen if the first step were not guided
    for rule, params in ACTING.items():
        got, same = made(guidance(rule, g=G, **params))
        assert (got - want).abs().max() <= 4*shaken and same == passes, (rule, ((got - want).abs().max()/shaken).item())

def test_a_pass_that_has_no_effect_is_not_made():
    "On noise alone the power law is `t`; its first step takes one pass, once it is known how the pipeline calls its network"
    name = 'StableDiffusion3Pipeline'
    pipe, kw = family(name)
    made = {}
    for key, tfm in dict(law=guidance('power_law', g=G), cfg=guidance('cfg', g=G), first=guidance('cfg', g=[1., G, G, G])).items():
        with guided(pipe, tfm) as host:
            drawn(name, pipe, kw)
            before = host.made
            drawn(name, pipe, kw)
        made[key] = host.made - before
    assert made['law'] == made['first'] < made['cfg']
    assert [guidance('power_law', alpha=a).needs(Step(0, 2, sigmas=(float('inf'), 1.))) for a in (.9, 0.)] == [{'t'}, {'u', 't'}]
