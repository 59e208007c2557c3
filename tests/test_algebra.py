"""Rules that are plain guidance by algebra, in every host: each transform has a row, which says at
which settings it is plain guidance, and with which scale.

Plain guidance drives a run, and at each of its steps each rule is asked too, with the predictions,
latents and shares that the host hands over. So one run in a host serves the whole table."""
import warnings
import diffusers as df, pytest, torch
import modular, test_families as families
from cf_guidance.adapters import guided, guidance_callback, ScheduledGuider, GuidedDenoiser
from cf_guidance.transforms import TRANSFORMS, guidance
from cf_guidance.pieces import get_sd_pieces
from cf_guidance.sampling import sample_latents
from cf_guidance.schedules import Step, linear
from cf_guidance.worlds import trees, PREDICTS, toy_pieces
from cf_guidance.transforms import cfg, how_of

G = 5.
def plain(name, **params): return name, {'g': G, **params}, G
def scaled(name, g, scale, **params): return name, {'g': g, **params}, scale

# Transform, parameters, and the scale of plain guidance that it is, at all steps or by the step
TABLE = [
    plain('cfg'),
    # these change lengths at any other scale
    scaled('base_norm', 0., 0.), scaled('t_norm', 0., 0.), scaled('full_norm', 0., 0.),
    plain('magnitude_aware', alpha=0.), scaled('magnitude_aware', G, G + 1, alpha=0., form='paper'),
    plain('adaptive_guidance', threshold=1.),
    plain('reuse', every=1.), *[plain('reuse', every=1., space=s) for s in ('epsilon', 'raw')],
    scaled('adaptive_guidance', G, lambda k: 1. if k else G, threshold=-1.),
    # above 1 its scale is its own
    scaled('feedback', .5, .5), scaled('feedback', 1., 1.),
    plain('rescale', phi=0.), *[plain('rescale', phi=0., space=s) for s in ('epsilon', 'sample')],
    plain('renorm', k=0.), plain('cap_norm', k=0.),
    # none but `t`: they cap each length, or set it, by that of `t`
    scaled('cfg_norm', 1., 1.), scaled('token_norm', 1., 1.),
    plain('epsilon_scaling', factor=1.), plain('tsr', k=1.),
    plain('power_law', alpha=0.), plain('beta_norm', gamma=0.),
    # always: what it changes is how `t` is made
    plain('cads'), plain('nag', scale=1.), plain('nag', alpha=0.),
    plain('frame_linear', first=G), plain('frame_triangle', first=G),
    plain('fdg', g_low=G),
    plain('fresca', low=1., high=1.), scaled('fresca', G, 2*G, low=2., high=2.),
    plain('smc', k=0.), plain('momentum', alpha=0.), plain('momentum', alpha=0., match=True, space='raw'),
    plain('higs', w=0.), plain('higs', t_max=1e-9, t_min=0.),
    # no cosine is below -1
    plain('cfg_oec', tau=-1.),
    # no image is that long
    plain('pmc', cap=1e9), scaled('pmc', .5, .5), plain('vags', kappa=0.), scaled('adamag', G, G, beta=1., gamma=0.),
    scaled('adamag', 2., G, beta=1., gamma=0., least=G), plain('samg', low=G),
    plain('zeresfdg', low=1., high=1., phi=0., enter=0., leave=-1.), plain('lf_cfg', rho=1.),
    plain('apg', eta=1.), plain('apg', eta=1., form='diffusers'), plain('apg', eta=1., rms=1e9, space='raw'),
    scaled('apg', G, G + 1, eta=1., form='comfyui'),
    plain('apg_mix', start=99), plain('apg_mix', late=1.),
    scaled('apg_mix', 3., G, late=G, start=-1, eta=1., r=0., beta=0., space='sample'),
    # none but `t`: the `u` that they start from depends on `t`
    scaled('cfg_zero', 1., 1., zero_steps=0), scaled('tcfg', 1., 1.),
    plain('recfg', k=1.),
    plain('static_threshold', limit=1e9), plain('dynamic_threshold', limit=1e9),
    plain('mimic', mimic=G), plain('mimic', mimic=1., phi=0.),
    plain('reinhard', multiplier=1e15),
    plain('skimmed', skim=G), plain('skimmed', skim=2*G),
    plain('skimmed', skim=G, form='interpolate'),
    # none but `t`: a turn, which below 1 is none, and a mixture with `g t`
    scaled('adg', G, 1., angle=0.), scaled('adg', .5, 1.), scaled('mahiro', 1., 1.),
    # none but `t`: they read no `u`
    scaled('autoguidance', 1., 1.), scaled('icg', 1., 1.), scaled('tsg', 1., 1.),
    plain('pag', s=0.), plain('seg', s=0.), plain('slg', s=0.),
    plain('perp_neg', beta=0.), plain('compose', g_other=0.),
    plain('contrastive', g_away=0., tau=0.), plain('contrastive', g_away=0., plain=True),
    plain('sld', s=0.), plain('sld', warmup=1000)]

def test_every_transform_has_a_row(): assert {name for name, *_ in TABLE} == set(TRANSFORMS)

def unit(dtype): return torch.finfo(dtype).eps/2

def tolerance(u, t, pred, step, g):
    """How far rounding can put a rule and plain guidance apart, number by number.

    Plain guidance rounds `d = t - u`, `g d` and the sum to the network's precision, and the rule
    its result. Inside, a rule works in float32 at least; a sum over n numbers, such as a norm, is
    off by about the root of n roundings. Between spaces it works in float64: a prediction of the
    noise has the share `a` of what the network says, beside `x`, and one of the image the share
    `b`; rounding grows by what divides that out again, which is 2^-26 at the least."""
    inner = torch.float64 if u.dtype == torch.float64 else torch.float32
    u, t, n = u.double(), t.double(), u[0].numel()
    size, d, steps = torch.maximum(u.abs(), t.abs()), (1 + abs(g))*(t - u).abs(), 8 + n**.5
    res = unit(pred.dtype)*2*(2*d + size) + unit(inner)*steps*(d + size)
    if step.x is None or not step.space: return res
    share = max(min(step.a, step.b)/(step.a + step.b), 2.**-26)
    latents = step.x.double().abs()/(step.a + step.b)
    return res + unit(torch.float64)*8*(1 + 2*abs(g))*(size + latents)/share

class Asked:
    "Plain guidance that asks every rule of the table at each step"
    def __init__(self, table=TABLE, g=lambda k: G):
        self.g, self.seen, self.wrong = g, [], []      # steps, and what rounding does not explain
        self.rows = [(*row, guidance(row[0], **row[1])) for row in table]
    def __call__(self, u, t, idx):
        self.seen.append(idx)
        for name, params, scale, tfm in self.rows:
            g = scale(idx) if callable(scale) else scale
            want, names = cfg(u, t, g), tfm.needs(idx)
            assert names <= {'u', 't'}, (name, params)
            assert name == 'cads' or not any(how_of(tfm, k, idx) for k in names), (name, params)
            if name in ('zeresfdg', 'lf_cfg') and u.ndim < 4:         # in tokens, or a vector
                with pytest.raises(ValueError, match='an image plane'): tfm(u, t, idx=idx)
                continue
            got = tfm(u if 'u' in names else None, t if 't' in names else None, idx=idx)
            assert got.dtype == u.dtype and got.shape == u.shape
            most = tolerance(u, t, want, idx, g) + 1e-300
            off = ((got.double() - want.double()).abs()/most).max().item()
            if not off <= 1: self.wrong.append((name, params, int(idx), idx.space, idx.a, off))
        return cfg(u, t, self.g(idx))

DTYPES = [torch.float32, torch.bfloat16]
def short(kw, dtype):
    "The arguments of a call in a precision"
    real = lambda v: isinstance(v, torch.Tensor) and v.is_floating_point()
    return {k: v.to(dtype) if real(v) else v for k, v in kw.items()}

SD, ZERO = 'StableDiffusionPipeline', 'zero terminal SNR'
def family(name):
    "A pipeline of a family, or one whose network predicts v and whose run begins with noise alone"
    own = SD if name == ZERO else name
    pipe, kw = families.FAMILIES[own][1].FAMILIES[own]()
    if name != ZERO: return pipe, kw
    conf = dict(rescale_betas_zero_snr=True, timestep_spacing='trailing',
                prediction_type='v_prediction')
    pipe.scheduler = df.DDIMScheduler.from_config(pipe.scheduler.config, **conf)
    return pipe, kw

def drawn(name, pipe, kw): return families.draw(SD if name == ZERO else name, pipe, kw, 3., 4)

SPACED = [r['name'] for r in families.ROWS.values() if r.get('spaces')]
NOISE_ALONE = [ZERO, 'StableDiffusion3Pipeline', 'FluxPipeline+true_cfg', 'WanPipeline']
KINDS = [SD, *NOISE_ALONE]      # noise, v, flow; one doubled batch, two calls; tokens, video
HEAVY = [k for k in SPACED if k not in KINDS]

@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', KINDS + HEAVY)
def test_guided(name, dtype, every):
    "In the pipelines of diffusers, at every step"
    if not every and name not in KINDS: pytest.skip('one of the heavier cases')
    if dtype != torch.float32 and name not in KINDS: pytest.skip('one family of each kind in half precision')
    pipe, kw = family(name)
    if dtype == torch.bfloat16: pipe.to(dtype)
    flat = 'Prior' in name                                        # its predictions have no plane
    asked = Asked([row for row in TABLE if not (flat and row[0] == 'mimic')])
    with warnings.catch_warnings(), guided(pipe, asked):
        warnings.simplefilter('ignore')
        drawn(name, pipe, short(kw, dtype))
    assert not asked.wrong and asked.seen[0] == 0 and asked.seen[-1] == asked.seen[-1].n - 1
    if name in NOISE_ALONE: assert asked.seen[0].a < (1e-3 if name == 'WanPipeline' else 1e-30)

@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', modular.HOSTS)
def test_guider(name, dtype, every):
    "In Modular Diffusers"
    few = name in ('sd3', 'sdxl') and dtype == torch.float32
    if not every and not few: pytest.skip('one of the heavier cases')
    pipe, kw = modular.HOSTS[name]()
    pipe.to(dtype)
    asked = Asked()
    pipe.update_components(guider=ScheduledGuider(asked, pipe))
    pipe(**short(kw, dtype), generator=torch.Generator().manual_seed(0))
    assert not asked.wrong and [int(k) for k in asked.seen] == list(range(6))
    assert all(k.x is not None for k in asked.seen)

@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_own_loop(dtype):
    "In our own loop: the built-in model, as it is and beginning with noise alone"
    pieces = get_sd_pieces(dtype=dtype, device='cpu')
    conf = dict(rescale_betas_zero_snr=True, timestep_spacing='trailing', clip_sample=False)
    for sampler in ('ddim', 'heun', df.DDIMScheduler.from_config(pieces.scheduler.config, **conf)):
        asked = Asked()
        more = dict(seeds=[1], steps=4, sampler=sampler, progress=False)
        sample_latents('a red cone', asked, pieces, **more)
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
    gen = torch.Generator().manual_seed(2)
    x, *means = torch.randn(3, 1, 4, 8, 8, generator=gen, dtype=torch.float64)
    def model(x, sigma, cond):
        x, cond, s = x.double(), cond.double(), sigma.double().view(-1, 1, 1, 1)
        return (cond + (x - cond)/(1 + s*s)).to(dtype)
    den, x = GuidedDenoiser(model, asked, sigmas), (sigmas[0]*x).to(dtype)
    conds = dict(zip(('cond', 'uncond'), (m.to(dtype) for m in means)))
    for s, s2 in zip(sigmas, sigmas[1:]):
        x = x + (x - den(x, torch.tensor([s]).double(), **conds))*(s2/s - 1)
    assert not asked.wrong and [int(k) for k in asked.seen] == list(range(6)) and x.isfinite().all()

def test_callback():
    "A callback's scale is plain guidance, and so are the rules that are"
    sched = linear(6, 3)
    pipe, kw = family(SD)
    want = families.draw(SD, pipe, kw, 6., callback_on_step_end=guidance_callback(sched))
    falls = lambda params: {k: sched if v == G else v for k, v in params.items()}
    g = lambda k: sched.values(4)[k]
    asked = Asked([(name, falls(params), g) for name, params, scale in TABLE if scale == G], g)
    with guided(pipe, asked): got = drawn(SD, pipe, kw)
    assert not asked.wrong and len(asked.seen) == 4 and len(asked.rows) > 25
    assert torch.equal(got, want)                                 # one batch, on one machine

ACTING = dict(apg=dict(eta=1.), static_threshold=dict(limit=1e9), renorm=dict(k=0.),
              adaptive_guidance=dict(threshold=1.))

class Shaken:
    "Plain guidance, off by as much as rounding explains, in random directions"
    def __init__(self): self.gen = torch.Generator().manual_seed(0)
    def __call__(self, u, t, idx):
        pred, way = cfg(u, t, G), torch.randn(u.shape, generator=self.gen).sign()
        return pred + (tolerance(u, t, pred, idx, G)*way).to(pred.dtype)

@pytest.mark.parametrize('name', NOISE_ALONE + [k for k in SPACED if k not in NOISE_ALONE])
def test_whole_runs(name, every):
    "A pipeline that is guided by a rule makes the image of plain guidance, with as many network calls"
    if not every and name not in NOISE_ALONE[:2]: pytest.skip('one of the heavier cases')
    pipe, kw = family(name)
    def made(tfm):
        with warnings.catch_warnings(), guided(pipe, tfm) as host:
            warnings.simplefilter('ignore')
            return drawn(name, pipe, kw).double(), host.made
    far = lambda tfm: (made(tfm)[0] - want).abs().max()
    want, passes = made(guidance('cfg', g=G))
    shaken, seen = far(Shaken()), far(guidance('cfg', g=lambda pos: G if pos else 1.))
    if name not in NOISE_ALONE and shaken >= .01*seen:
        pytest.skip('its first step moves what it makes by little more than rounding')
    assert shaken < .01*seen                                                      # it would be seen
    for rule, params in ACTING.items():
        got, same = made(guidance(rule, g=G, **params))
        assert (got - want).abs().max() <= 4*shaken and same == passes, rule

def test_a_pass_that_has_no_effect_is_not_made():
    "On noise alone the power law is `t`: one pass, once a host knows how its pipeline makes them"
    name, made = 'StableDiffusion3Pipeline', {}
    pipe, kw = family(name)
    first = guidance('cfg', g=[1., G, G, G])
    for tfm in (guidance('power_law', g=G), first, guidance('cfg', g=G)):
        with guided(pipe, tfm) as host:
            drawn(name, pipe, kw)
            before = host.made
            drawn(name, pipe, kw)
        made[tfm.rule.__name__, tfm is first] = host.made - before
    assert made['power_law', False] == made['cfg', True] < made['cfg', False]
    begins = Step(0, 2, sigmas=(float('inf'), 1.))
    assert guidance('power_law').needs(begins) == {'t'}
    assert guidance('power_law', alpha=0.).needs(begins) == {'u', 't'}
