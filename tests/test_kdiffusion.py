"k-diffusion's own samplers and wrappers, walked by a guided denoiser"
import copy, importlib, importlib.util, sys, types
import pytest, torch
from cf_guidance.kdiffusion import GuidedDenoiser, PiecesDenoiser
from cf_guidance.methods import TRANSFORMS, guidance
from cf_guidance.pieces import get_sd_pieces, text_embeddings
from cf_guidance.sampling import sample_latents
from cf_guidance.samplers import begin_run
from cf_guidance.schedules import Step, constant, cosine, linear
from cf_guidance.toy import trees
from cf_guidance.toy_pieces import toy_pieces
from cf_guidance.waves import start_noise

def _load():
    "Its modules `sampling` and `external`; the whole package also wants skimage, CLIP and a torchvision, which have no part in them"
    parts = ['torchvision', 'torchvision.transforms', 'torchvision.transforms.functional']
    package = types.ModuleType('k_diffusion')
    package.__path__ = list(importlib.util.find_spec('k_diffusion').submodule_search_locations)
    stubs = {'k_diffusion': package, **{name: types.ModuleType(name) for name in parts}}            # `utils` names torchvision for reading and writing files
    stubs[parts[1]].functional = stubs[parts[2]]
    was = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try: return [importlib.import_module(f'k_diffusion.{name}') for name in ('sampling', 'external')]
    finally:
        for name, old in was.items():
            if old is None: del sys.modules[name]
            else: sys.modules[name] = old

if importlib.util.find_spec('k_diffusion') is None:
    pytest.skip('pip install --no-deps k-diffusion==0.1.1.post1 torchsde==0.2.6 torchdiffeq==0.2.5 trampoline==0.1.2', allow_module_level=True)
K, wrappers = _load()

N, mix = 8, trees()
SIGMAS = K.get_sigmas_karras(N, .05, 10.).double()
ONE, LIKE_HEUN, SAME = 'one call', 'the second call at the next level', 'the second call on the way'
SAMPLERS = {'euler': (ONE, {}), 'dpmpp_2m': (ONE, {}), 'lms': (ONE, {}), 'euler_ancestral': (ONE, {}), 'dpmpp_2m_sde': (ONE, {}), 'dpmpp_3m_sde': (ONE, {}),
            'heun': (LIKE_HEUN, {}), 'dpm_2_ancestral': (LIKE_HEUN, {}), 'dpmpp_2s_ancestral': (LIKE_HEUN, {}),
            'dpm_2': (SAME, {}), 'dpmpp_sde': (SAME, {}), 'dpm_2_ancestral, eta=.5': (SAME, {'eta': .5}), 'dpmpp_2s_ancestral, eta=0': (SAME, {'eta': 0.})}

def sampled(name, model, x, sigmas=SIGMAS, **extra):
    "Where a sampler ends; noise on the way is the same each time"
    f, kw, gen = getattr(K, f'sample_{name.split(",")[0]}'), SAMPLERS[name][1], torch.Generator().manual_seed(7)
    noisy = {'noise_sampler': lambda s, s2: torch.randn(x.shape, generator=gen, dtype=x.dtype)} if 'sde' in name or 'ancestral' in name else {}
    return f(model, x, sigmas, extra_args=extra, disable=True, **kw, **noisy)

def steps_of(name):
    "The step that each call of a sampler is looked up as"
    second = {ONE: lambda k: [], LIKE_HEUN: lambda k: [k + 1], SAME: lambda k: [k]}[SAMPLERS[name][0]]
    return [i for k in range(N - 1) for i in (k, *second(k))] + [N - 1]

class CFGDenoiser:
    "Guidance as k-diffusion's users write it, with a scale for each call"
    def __init__(self, model, scales): self.model, self.scales = model, list(scales)
    def __call__(self, x, sigma, cond, uncond):
        u, t = self.model(torch.cat([x]*2), torch.cat([sigma]*2), cond=torch.cat([uncond, cond])).chunk(2)
        return u + (t - u)*self.scales.pop(0)

def perfect(x, sigma, cond): return mix.denoise(x, 1., sigma[0].item(), cond)

noise = 10*torch.randn(20, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
both = dict(cond=torch.tensor([[0., 1.]]).expand(20, 2), uncond=mix.prior[None].expand(20, 2))

@pytest.mark.parametrize('name', SAMPLERS)
@pytest.mark.parametrize('g', [4., -1., linear(9, 2), cosine(8, .5), constant(6.).within((.3, 4.), 2.)], ids=repr)
def test_usual_wrapper(name, g):
    "With a constant scale the denoiser is the usual wrapper to the bit, and with a schedule it is that wrapper told the scale of each call"
    vals = [g]*N if isinstance(g, float) else g.values(N, SIGMAS[:-1].tolist())
    usual = CFGDenoiser(perfect, [vals[k] for k in steps_of(name)])
    want = sampled(name, usual, noise, **both)
    assert not usual.scales and torch.isfinite(want).all()
    assert torch.equal(sampled(name, GuidedDenoiser(perfect, guidance('cfg', g=g), SIGMAS), noise, **both), want)

@pytest.mark.parametrize('name', SAMPLERS)
def test_one_half_where_one_is_read(name):
    "Outside its window guidance costs one row for each image"
    rows, window = [], constant(6.).within((.3, 4.))
    def counting(x, sigma, cond): rows.append(len(x)); return perfect(x, sigma, cond)
    got, vals = sampled(name, GuidedDenoiser(counting, guidance('cfg', g=window), SIGMAS), noise, **both), window.values(N, SIGMAS[:-1].tolist())
    assert rows == [20 if vals[k] == 1 else 40 for k in steps_of(name)] and set(rows) == {20, 40}
    want = sampled(name, CFGDenoiser(perfect, [vals[k] for k in steps_of(name)]), noise, **both)
    assert (got - want).abs().max() < 1e-9

def gaussian(x, sigma, cond): return cond + (x - cond)/(1 + sigma.view(-1, 1, 1, 1)**2)

class ByHand:
    "A transform called with the steps that we count"
    def __init__(self, tfm, steps): self.tfm, self.steps = tfm, list(steps)
    def __call__(self, x, sigma, cond, uncond):
        u, t = gaussian(torch.cat([x]*2), torch.cat([sigma]*2), torch.cat([uncond, cond])).chunk(2)
        step = Step(self.steps.pop(0), N, sigmas=tuple(SIGMAS[:-1].tolist()), x=x, a=1., b=sigma[0].item(), space='sample')
        names = self.tfm.needs(step)
        return self.tfm(u if 'u' in names else None, t if 't' in names else None, idx=step)

ALONE = [name for name in TRANSFORMS if 'weak' not in guidance(name).needs(Step(0, N)) and name != 'cads']

@pytest.mark.parametrize('name', ALONE)
def test_every_transform(name, every):
    "Each transform walks with each sampler as it does when the steps are counted, twice the same"
    gen = torch.Generator().manual_seed(2)
    pic, c, uc = (torch.randn(2, 4, 8, 8, generator=gen, dtype=torch.float64) for _ in range(3))
    for sampler in SAMPLERS if every else ('euler', 'dpmpp_2m', 'heun', 'dpm_2'):
        for params in ({}, {'g': linear(6, 2)}):
            den = GuidedDenoiser(gaussian, guidance(name, **params), SIGMAS)
            first, again = [sampled(sampler, den, 10*pic, cond=c, uncond=uc) for _ in range(2)]
            want = sampled(sampler, ByHand(guidance(name, **params), steps_of(sampler)), 10*pic, cond=c, uncond=uc)
            assert torch.isfinite(first).all() and torch.equal(first, again)
            assert (first - want).abs().max() <= 1e-10*(1 + want.abs().max()), sampler

def test_weaker_model():
    "A second denoiser makes the weaker prediction"
    blurry = mix.blurred(.3)
    def worse(x, sigma, cond): return blurry.denoise(x, 1., sigma[0].item(), cond)
    def by_hand(x, sigma, cond, uncond): return worse(x, sigma, cond) + 2*(perfect(x, sigma, cond) - worse(x, sigma, cond))
    got = sampled('heun', GuidedDenoiser(perfect, guidance('autoguidance', g=2.), SIGMAS, weak=worse), noise, **both)
    assert (got - sampled('heun', by_hand, noise, **both)).abs().max() < 1e-9

def inner(kind):
    "A network that knows the Gaussian world, in the convention of a wrapper: latents at norm 1, and a time"
    def net(x, t, cond, sigma_of):
        sigma = sigma_of(t).view(-1, 1, 1, 1).to(x.dtype)
        x = x*(1 + sigma**2)**.5
        x0 = gaussian(x, sigma, cond)
        return (x - x0)/sigma if kind == 'eps' else (x/(1 + sigma**2) - x0)*(1 + sigma**2)**.5/sigma
    return net

def wrapped(name):
    abar = toy_pieces(mix).scheduler.alphas_cumprod.double()
    net = inner('v' if 'VDen' in name else 'eps')
    if name == 'VDenoiser': wrap = wrappers.VDenoiser(lambda x, t, cond: net(x, t, cond, wrap.t_to_sigma))
    elif name == 'OpenAIDenoiser': wrap = wrappers.OpenAIDenoiser(lambda x, t, cond: torch.cat([net(x, t, cond, wrap.t_to_sigma), x], 1), types.SimpleNamespace(alphas_cumprod=abar.numpy()))
    else: wrap = getattr(wrappers, name)(types.SimpleNamespace(alphas_cumprod=abar, apply_model=lambda x, t, cond: net(x, t, cond, wrap.t_to_sigma)))
    return wrap

@pytest.mark.parametrize('name', ['CompVisDenoiser', 'CompVisVDenoiser', 'VDenoiser', 'OpenAIDenoiser'])
def test_wrappers(name):
    "A network in each of k-diffusion's wrappers is guided as the denoiser that it stands for"
    pic, c, uc = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for tfm in ('cfg', 'apg', 'rescale'):
        got, want = [sampled('dpmpp_2m', GuidedDenoiser(m, guidance(tfm, g=linear(6, 2)), SIGMAS), 10*pic, cond=c, uncond=uc) for m in (wrapped(name), gaussian)]
        assert (got - want).abs().max() < 1e-5, tfm                        # their table of noise levels is in float32

def test_wrapper_of_the_built_in_model():
    "`PiecesDenoiser` is what k-diffusion's wrapper for networks that predict v makes of the same network"
    pieces = get_sd_pieces(device='cpu')
    ours, emb = PiecesDenoiser(pieces), text_embeddings(['a red star']*2, pieces)
    theirs = wrappers.DiscreteVDDPMDenoiser(lambda x, t, cond: pieces.unet(x, t, encoder_hidden_states=cond).sample, pieces.scheduler.alphas_cumprod, False)
    for s in (14.5, 3.21, .5, .03):
        x, sigma = s*torch.randn(2, pieces.unet.config.in_channels, *[pieces.unet.config.sample_size]*2, generator=torch.Generator().manual_seed(3)), torch.full((2,), s)
        assert (ours(x, sigma, cond=emb) - theirs(x, sigma, cond=emb)).abs().max() < 1e-5, s

def own_loop(tfm, sampler, kind='v_prediction', steps=12, seeds=(1, 2, 3)):
    "Latents of our own loop in the exact world, and what k-diffusion needs to make the same"
    pieces = toy_pieces(mix, kind)
    course = begin_run(pieces, sampler, steps)
    got = sample_latents('oak', copy.deepcopy(tfm), pieces, seeds=list(seeds), steps=steps, sampler=sampler, progress=False)
    start, gens = zip(*[start_noise(s, pieces, (1, 1)) for s in seeds])
    emb = {k: text_embeddings([p]*len(seeds), pieces) for k, p in (('cond', 'oak'), ('uncond', ''))}
    return got, PiecesDenoiser(pieces), torch.cat(start)*float(course.scheduler.init_noise_sigma), torch.tensor([*course.sigmas, 0.], dtype=torch.float64), emb, gens

TWINS = {'euler': 'EulerDiscreteScheduler', 'lms': 'LMSDiscreteScheduler', 'heun': 'HeunDiscreteScheduler', 'dpm_2': 'KDPM2DiscreteScheduler', 'euler_ancestral': 'EulerAncestralDiscreteScheduler'}

@pytest.mark.parametrize('sampler', TWINS)
@pytest.mark.parametrize('name', ['cfg', 'base_norm', 'cap_norm', 'apg', 'smc'])
def test_own_loop(sampler, name):
    "k-diffusion's samplers and our own loop with diffusers' twins of them end at the same points, but for Heun and a rule with a memory"
    tfm = guidance(name, **({'beta': -.5} if name == 'apg' else {}), **({} if sampler == 'heun' else {'g': linear(6, 2)}))
    want, net, x, sigmas, emb, gens = own_loop(tfm, TWINS[sampler])
    noisy = {'noise_sampler': lambda s, s2: torch.cat([torch.randn(1, 2, 1, 1, generator=g, dtype=x.dtype) for g in gens])} if 'ancestral' in sampler else {}
    got = getattr(K, f'sample_{sampler}')(GuidedDenoiser(net, tfm, sigmas), x, sigmas, extra_args=emb, disable=True, **noisy)
    gap = (got - want).abs().max()
    assert gap > 1e-3 if sampler == 'heun' and name in ('apg', 'smc') else gap < 1e-5

def test_heun_differs():
    "Our own loop gives both calls of a step of Heun one scale; looked up by noise level, the second has the next step's"
    g, n = linear(8, 2), 12
    want, net, x, sigmas, emb, _ = own_loop(guidance('cfg', g=g), TWINS['heun'], steps=n)
    vals, run = g.values(n), lambda model: K.sample_heun(model, x, sigmas, extra_args=emb, disable=True)
    by_step, by_level = [v for v in vals for _ in range(2)][:-1], [v for k in range(n - 1) for v in vals[k:k + 2]] + vals[-1:]
    assert (run(CFGDenoiser(net, by_step)) - want).abs().max() < 1e-5
    looked_up = run(GuidedDenoiser(net, guidance('cfg', g=g), sigmas))
    assert torch.equal(looked_up, run(CFGDenoiser(net, by_level))) and (looked_up - want).abs().max() > .01

def test_churn_and_samplers_with_levels_of_their_own():
    "Raised noise is looked up as the step that it lies in; levels that no list holds are too"
    seen = []
    class Noting:
        def __call__(self, u, t, idx): seen.append((int(idx), idx.b)); return u + 4*(t - u)
    torch.manual_seed(0)
    K.sample_euler(GuidedDenoiser(perfect, Noting(), SIGMAS), noise, SIGMAS, extra_args=both, disable=True, s_churn=100.)
    assert [k for k, _ in seen] == [max(k - 1, 0) for k in range(N)] and all(b > SIGMAS[i] for i, (_, b) in enumerate(seen))
    for f, kw in ((K.sample_dpm_fast, {'n': 9}), (K.sample_dpm_adaptive, {})):
        seen.clear()
        out = f(GuidedDenoiser(perfect, Noting(), SIGMAS), noise, .05, 10., extra_args=both, disable=True, **kw)
        assert torch.isfinite(out).all() and {k for k, _ in seen} <= set(range(N)) and seen[0][0] == 0
        assert all(SIGMAS[k]*1.002 >= b >= SIGMAS[k + 1]*.998 for k, b in seen)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_short_numbers(dtype):
    "In half precision, where a level is rounded, each call is still its own step"
    seen = []
    class Noting:
        def __call__(self, u, t, idx): seen.append(int(idx)); return t
    den = GuidedDenoiser(lambda x, sigma, cond: perfect(x, sigma, cond).to(x.dtype), Noting(), SIGMAS)
    for name in ('euler', 'heun', 'dpmpp_2s_ancestral'):
        seen.clear()
        assert sampled(name, den, noise.to(dtype), SIGMAS.float(), **both).dtype == dtype or dtype != torch.float32
        assert seen == steps_of(name), name
