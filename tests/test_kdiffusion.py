"k-diffusion's own samplers and wrappers, walked by a guided denoiser"
import copy, importlib, importlib.util, inspect, math, sys, types
import pytest, torch
from cf_guidance.transforms import feedback_terms
from cf_guidance.adapters import GuidedDenoiser, PiecesDenoiser
from cf_guidance.transforms import TRANSFORMS, guidance
from cf_guidance.pieces import get_sd_pieces, text_embeddings
from cf_guidance.sampling import sample_latents, begin_run
from cf_guidance.schedules import Step, constant, cosine, linear
from cf_guidance.worlds import trees, toy_pieces
from cf_guidance.sampling import start_noise
from hosts import same

def _load():
    "Its modules `sampling` and `external`; the whole package also wants skimage, CLIP and a torchvision, which have no part in them"
    parts = ['torchvision', 'torchvision.transforms', 'torchvision.transforms.functional']
    package = types.ModuleType('k_diffusion')
    package.__path__ = list(importlib.util.find_spec('k_diffusion').submodule_search_locations)
    # `utils` names torchvision for reading and writing files
    stubs = {'k_diffusion': package, **{name: types.ModuleType(name) for name in parts}}
    stubs[parts[1]].functional = stubs[parts[2]]
    was = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try: return [importlib.import_module(f'k_diffusion.{name}') for name in ('sampling', 'external')]
    finally:
        for name, old in was.items():
            if old is None: del sys.modules[name]
            else: sys.modules[name] = old

if importlib.util.find_spec('k_diffusion') is None:
    pytest.skip('pip install --no-deps k-diffusion==0.1.1.post1 torchsde==0.2.6 torchdiffeq==0.2.5 trampoline==0.1.2',
                allow_module_level=True)
K, wrappers = _load()

N, mix = 8, trees()
SIGMAS = K.get_sigmas_karras(N, .05, 10.).double()
@torch.no_grad()
def sample_heunpp2(model, x, sigmas, extra_args=None, callback=None, disable=None, s_churn=0.):
    "A step that looks two levels ahead, with the weights of ComfyUI's sampler of this name: three calls, two in the last step but one"
    for i in range(len(sigmas) - 1):
        s, s2 = sigmas[i]*(1 + min(s_churn/(len(sigmas) - 1), 2**.5 - 1)), sigmas[i + 1]
        x = x + torch.randn_like(x)*(s*s - sigmas[i]**2)**.5
        slope = lambda x, s: (x - model(x, s*x.new_ones(len(x)), **extra_args))/s
        d = slope(x, s)
        if callback: callback({'i': i, 'sigma': sigmas[i], 'sigma_hat': s})
        if s2 > 0:
            y = x + d*(s2 - s)
            d2 = slope(y, s2)
            if sigmas[i + 2] > 0:
                d3 = slope(y + d2*(sigmas[i + 2] - s2), sigmas[i + 2])
                w2, w3 = s2/(3*sigmas[0]), sigmas[i + 2]/(3*sigmas[0])
                d = (1 - w2 - w3)*d + w2*d2 + w3*d3
            else: d = (1 - s2/(2*sigmas[0]))*d + s2/(2*sigmas[0])*d2
        x = x + d*(s2 - s)
    return x
K.sample_heunpp2 = sample_heunpp2

CHURNED = {'s_churn': 2.}, {'s_churn': 100.}, {'s_churn': 4., 's_tmin': .3, 's_tmax': 4.}
# calls in a step that is not the last
SAMPLERS = {
    str((name, kw)): (name, calls, kw)
    for name, calls, kws in (('euler', 1, ({}, *CHURNED)), ('heun', 2, ({}, *CHURNED)), ('dpm_2', 2, ({}, *CHURNED)),
                             ('heunpp2', 3, ({}, {'s_churn': 2.}, {'s_churn': 100.})), ('lms', 1, [{}]),
                             ('euler_ancestral', 1, ({}, {'eta': .5})),
                             ('dpm_2_ancestral', 2, ({}, {'eta': .5}, {'eta': 0.})), ('dpmpp_2s_ancestral', 2,
                                                                                      ({}, {'eta': .5}, {'eta': 0.})),
                             ('dpmpp_sde', 2, ({}, {'eta': 0.}, {'r': .9})), ('dpmpp_2m', 1, [{}]),
                             ('dpmpp_2m_sde', 1, ({}, {'eta': 0.}, {'solver_type': 'heun'})), ('dpmpp_3m_sde', 1,
                                                                                               ({}, {'eta': 0.})))
    for kw in kws
}

FEW = [f for f, (_, _, kw) in SAMPLERS.items() if kw in ({}, CHURNED[1])]

def sampled(name, model, x, sigmas=SIGMAS, callback=None, **extra):
    "Where a sampler ends; noise on the way is the same each time"
    torch.manual_seed(5)
    (name, _, kw), gen = SAMPLERS[name], torch.Generator().manual_seed(7)
    noisy = {'noise_sampler': lambda s, s2: torch.randn(x.shape, generator=gen, dtype=x.dtype)
             } if 'sde' in name or 'ancestral' in name else {}
    return getattr(K, f'sample_{name}')(model, x, sigmas, extra_args=extra, disable=True, callback=callback, **kw,
                                        **noisy)

def steps_of(name, start=0):
    "The step of each call of a sampler that begins at step `start`, as its code has it"
    calls = SAMPLERS[name][1]
    return [k for k in range(start, N) for _ in range(min(calls, N - k))]

class CFGDenoiser:
    "Guidance as k-diffusion's users write it, with a scale for each call"
    def __init__(self, model, scales): self.model, self.scales = model, list(scales)
    def __call__(self, x, sigma, cond, uncond):
        u, t = self.model(torch.cat([x]*2), torch.cat([sigma]*2), cond=torch.cat([uncond, cond])).chunk(2)
        return u + (t - u)*self.scales.pop(0)

def perfect(x, sigma, cond): return mix.denoise(x, 1., sigma[0].item(), cond)

noise = 10*torch.randn(20, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
both = dict(cond=torch.tensor([[0., 1.]]).expand(20, 2), uncond=mix.prior[None].expand(20, 2))

@pytest.mark.parametrize('g', [4., -1., linear(9, 2), cosine(8, .5), constant(6.).within((.3, 4.), 2.)], ids=repr)
def test_usual_wrapper(g, every):
    "With a constant scale the denoiser is the usual wrapper to the bit, and with a schedule it is that wrapper told the scale of each call"
    vals = [g]*N if isinstance(g, float) else g.values(N, SIGMAS[:-1].tolist())
    for name in SAMPLERS if every else FEW:
        usual = CFGDenoiser(perfect, [vals[k] for k in steps_of(name)])
        want = sampled(name, usual, noise, **both)
        assert not usual.scales and torch.isfinite(want).all()
        assert torch.equal(sampled(name, GuidedDenoiser(perfect, guidance('cfg', g=g), SIGMAS), noise, **both),
                           want), name

def test_one_half_where_one_is_read(every):
    "Outside its window guidance costs one row for each image"
    window = constant(6.).within((.3, 4.))
    vals = window.values(N, SIGMAS[:-1].tolist())
    for name in SAMPLERS if every else FEW:
        rows = []
        def counting(x, sigma, cond): rows.append(len(x)); return perfect(x, sigma, cond)
        got = sampled(name, GuidedDenoiser(counting, guidance('cfg', g=window), SIGMAS), noise, **both)
        assert rows == [20 if vals[k] == 1 else 40 for k in steps_of(name)] and set(rows) == {20, 40}, name
        want = sampled(name, CFGDenoiser(perfect, [vals[k] for k in steps_of(name)]), noise, **both)
        assert (got - want).abs().max() < 1e-9, name

def gaussian(x, sigma, cond): return cond + (x - cond)/(1 + sigma.view(-1, 1, 1, 1)**2)

class ByHand:
    "A transform called with the steps that we count"
    def __init__(self, tfm, steps): self.tfm, self.steps = tfm, list(steps)
    def __call__(self, x, sigma, cond, uncond):
        u, t = gaussian(torch.cat([x]*2), torch.cat([sigma]*2), torch.cat([uncond, cond])).chunk(2)
        step = Step(self.steps.pop(0), N, sigmas=tuple(SIGMAS[:-1].tolist()), x=x, a=1., b=sigma[0].item(),
                    space='sample')
        names = self.tfm.needs(step)
        return self.tfm(u if 'u' in names else None, t if 't' in names else None, idx=step)

ALONE = [name for name in TRANSFORMS if not guidance(name).weaker and name not in ('cads', 'nag')]

@pytest.mark.parametrize('name', ALONE)
def test_every_transform(name, every):
    "Each transform walks with each sampler as it does when the steps are counted, twice the same"
    gen = torch.Generator().manual_seed(2)
    pic, c, uc = (torch.randn(2, 4, 8, 8, generator=gen, dtype=torch.float64) for _ in range(3))
    for sampler in SAMPLERS if every else [
            f for f in SAMPLERS if f in map(str, (('euler', {}), ('heun', CHURNED[0]), ('dpm_2', {}), ('heunpp2', {})))
    ]:
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

    def by_hand(x, sigma, cond, uncond):
        return worse(x, sigma, cond) + 2*(perfect(x, sigma, cond) - worse(x, sigma, cond))

    got = sampled(str(('heun', {})), GuidedDenoiser(perfect, guidance('autoguidance', g=2.), SIGMAS, weak=worse), noise,
                  **both)
    assert (got - sampled(str(('heun', {})), by_hand, noise, **both)).abs().max() < 1e-9

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
    elif name == 'OpenAIDenoiser':
        wrap = wrappers.OpenAIDenoiser(lambda x, t, cond: torch.cat([net(x, t, cond, wrap.t_to_sigma), x], 1),
                                       types.SimpleNamespace(alphas_cumprod=abar.numpy()))
    else:
        wrap = getattr(wrappers,
                       name)(types.SimpleNamespace(alphas_cumprod=abar,
                                                   apply_model=lambda x, t, cond: net(x, t, cond, wrap.t_to_sigma)))
    return wrap

@pytest.mark.parametrize('name', ['CompVisDenoiser', 'CompVisVDenoiser', 'VDenoiser', 'OpenAIDenoiser'])
def test_wrappers(name):
    "A network in each of k-diffusion's wrappers is guided as the denoiser that it stands for"
    pic, c, uc = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for tfm in ('cfg', 'apg', 'rescale'):
        got, want = [
            sampled(str(('dpmpp_2m', {})), GuidedDenoiser(m, guidance(tfm, g=linear(6, 2)), SIGMAS), 10*pic, cond=c,
                    uncond=uc) for m in (wrapped(name), gaussian)
        ]
        assert (got - want).abs().max() < 1e-5, tfm                        # their table of noise levels is in float32

def test_wrapper_of_the_built_in_model():
    "`PiecesDenoiser` is what k-diffusion's wrapper for networks that predict v makes of the same network"
    pieces = get_sd_pieces(device='cpu')
    ours, emb = PiecesDenoiser(pieces), text_embeddings(['a red cone']*2, pieces)
    theirs = wrappers.DiscreteVDDPMDenoiser(lambda x, t, cond: pieces.unet(x, t, encoder_hidden_states=cond).sample,
                                            pieces.scheduler.alphas_cumprod, False)
    for s in (14.5, 3.21, .5, .03):
        x, sigma = s*torch.randn(2, pieces.unet.config.in_channels, *[pieces.unet.config.sample_size]*2,
                                 generator=torch.Generator().manual_seed(3)), torch.full((2, ), s)
        assert (ours(x, sigma, cond=emb) - theirs(x, sigma, cond=emb)).abs().max() < 1e-5, s

def own_loop(tfm, sampler, kind='v_prediction', steps=12, seeds=(1, 2, 3)):
    "Latents of our own loop in the exact world, and what k-diffusion needs to make the same"
    pieces = toy_pieces(mix, kind)
    course = begin_run(pieces, sampler, steps)
    got = sample_latents('oak', copy.deepcopy(tfm), pieces, seeds=list(seeds), steps=steps, sampler=sampler,
                         progress=False)
    start, gens = zip(*[start_noise(s, pieces, (1, 1)) for s in seeds])
    emb = {k: text_embeddings([p]*len(seeds), pieces) for k, p in (('cond', 'oak'), ('uncond', ''))}
    return got, PiecesDenoiser(pieces), torch.cat(start)*float(course.scheduler.init_noise_sigma), torch.tensor(
        [*course.sigmas, 0.], dtype=torch.float64), emb, gens

TWINS = {
    'euler': 'EulerDiscreteScheduler', 'lms': 'LMSDiscreteScheduler', 'heun': 'HeunDiscreteScheduler',
    'dpm_2': 'KDPM2DiscreteScheduler', 'euler_ancestral': 'EulerAncestralDiscreteScheduler'
}

@pytest.mark.parametrize('sampler', TWINS)
@pytest.mark.parametrize('name', ['cfg', 'base_norm', 'cap_norm', 'apg', 'smc', 'feedback'])
def test_own_loop(sampler, name):
    "k-diffusion's samplers and our own loop with diffusers' twins of them end at the same points, with a schedule and with a memory too"
    tfm = guidance(name, **({'beta': -.5} if name == 'apg' else {}), g=linear(6, 2))
    want, net, x, sigmas, emb, gens = own_loop(tfm, TWINS[sampler])
    noisy = {
        'noise_sampler': lambda s, s2: torch.cat([torch.randn(1, 2, 1, 1, generator=g, dtype=x.dtype) for g in gens])
    } if 'ancestral' in sampler else {}
    got = getattr(K, f'sample_{sampler}')(GuidedDenoiser(net, tfm, sigmas), x, sigmas, extra_args=emb, disable=True,
                                          **noisy)
    assert (got - want).abs().max() < 1e-5

class Noting:
    "A transform that notes its calls, and where it is reset"
    def __init__(self, fails=None): self.calls, self.resets, self.fails = [], [], fails
    def reset(self): self.resets.append(len(self.calls))
    def __call__(self, u, t, idx):
        if len(self.calls) == self.fails: raise KeyError('as asked')
        self.calls.append(idx)
        return u + 4*(t - u)

def levels_of(name, x, sigmas):
    "Noise level of each call of a sampler, and which of them are the first of a step, by its callback"
    levels, firsts = [], []

    def plain(x, sigma, cond, uncond):
        levels.append(sigma[0].item())
        return perfect(x, sigma, uncond) + 4*(perfect(x, sigma, cond) - perfect(x, sigma, uncond))
    sampled(name, plain, x, sigmas, lambda info: firsts.append((len(levels) - 1, info['i'])), **both)
    return levels, firsts

@pytest.mark.parametrize('start', [0, 3, N - 2])
@pytest.mark.parametrize('name', SAMPLERS)
def test_step_and_level_of_each_call(name, start):
    "Each call is of the step that the sampler makes, also in a run that begins part-way; the level of the call is the one it came with; a run is reset once"
    tfm, levels = Noting(), tuple(SIGMAS[:-1].tolist())
    den = GuidedDenoiser(perfect, tfm, SIGMAS)
    for k in range(2): sampled(name, den, noise, SIGMAS[start:], **both)
    calls, half = tfm.calls, len(tfm.calls)//2
    assert [int(c) for c in calls] == steps_of(name, start)*2 and tfm.resets == [0, half]
    assert all(c.sigma == levels[c] and c.n == N and c.sigmas == levels and c.a == 1 for c in calls)
    want, firsts = levels_of(name, noise, SIGMAS[start:])
    torch.testing.assert_close(torch.tensor([c.b for c in calls[:half]]), torch.tensor(want), rtol=1e-9, atol=0)
    assert [int(calls[k]) - start for k, _ in firsts] == [i for _, i in firsts] == list(range(N - start))

@pytest.mark.parametrize('name', FEW)
def test_runs_that_end_early(name):
    "A run that ends in an error, in the transform or in the sampler, has no effect on the next, wherever that begins"
    def stop(info):
        if info['i'] == at: raise KeyError('as asked')
    for at in (0, 4):
        for begin in (0, 6):
            for fails in (None, at):
                tfm = Noting(fails)
                den = GuidedDenoiser(perfect, tfm, SIGMAS)
                with pytest.raises(KeyError):
                    sampled(name, den, noise, callback=None if fails is not None else stop, **both)
                tfm.fails, made = None, len(tfm.calls)
                sampled(name, den, noise, SIGMAS[begin:], **both)
                assert [int(c) for c in tfm.calls[made:]] == steps_of(name, begin) and tfm.resets == [0, made]

def test_another_sampler_with_one_denoiser():
    "Runs of all samplers, one after the other, with and without the first steps"
    tfm, want = Noting(), []
    den = GuidedDenoiser(perfect, tfm, SIGMAS)
    for k, name in enumerate([*SAMPLERS, *reversed(SAMPLERS)]):
        assert len(tfm.resets) == k
        sampled(name, den, noise, SIGMAS[k % 3:], **both)
        want += steps_of(name, k % 3)
    assert [int(c) for c in tfm.calls] == want

def test_fine_lists():
    "Where the noise is raised above the level of earlier steps, the order still tells; a second list that is rounded or cut is the same list"
    sigmas, tfm = K.get_sigmas_karras(60, .05, 10.).double(), Noting()
    den = GuidedDenoiser(perfect, tfm, sigmas)
    for part in (sigmas, sigmas.float(), sigmas[7:], torch.cat([sigmas[:30], sigmas[-1:]])):
        tfm.calls.clear(); torch.manual_seed(0)
        K.sample_euler(den, noise, part, extra_args=both, disable=True, s_churn=1000.)
        start = 7 if len(part) == 54 else 0
        assert [int(c)
                for c in tfm.calls] == list(range(start, start + len(part) - 1)) and max(c.b/c.sigma
                                                                                         for c in tfm.calls) > 1.4

def test_another_list():
    "A sampler that walks along other levels than the denoiser was told is looked up by level"
    tfm, other = Noting(), K.get_sigmas_karras(13, .07, 9.).double()
    sampled(str(('euler', {})), GuidedDenoiser(perfect, tfm, SIGMAS), noise, other, **both)
    assert [int(c)
            for c in tfm.calls] == [max(sum(s <= v
                                            for v in SIGMAS[:-1].tolist()) - 1, 0)
                                    for s in other[:-1].tolist()] and len(tfm.resets) == 1

MEMORIES = [name for name in ALONE if 'state' in inspect.signature(TRANSFORMS[name].rule).parameters]

@pytest.mark.parametrize('name', MEMORIES)
def test_memory_advances_once_a_step(name):
    "What a rule keeps after a run is what it keeps when each step's first call is made alone"
    gen = torch.Generator().manual_seed(2)
    pic, c, uc = (torch.randn(2, 4, 8, 8, generator=gen, dtype=torch.float64) for _ in range(3))
    for sampler in SAMPLERS:
        tfm, seen = guidance(name, **({'beta': -.5} if name.startswith('apg') else {}), g=linear(6, 2)), {}
        alone = copy.deepcopy(tfm)
        class Watched:
            reset, needs = tfm.reset, tfm.needs
            def __call__(self, u, t, idx): seen.setdefault(int(idx), (u, t, idx)); return tfm(u, t, idx)
        sampled(sampler, GuidedDenoiser(gaussian, Watched(), SIGMAS), 10*pic, cond=c, uncond=uc)
        for u, t, idx in seen.values(): alone(u, t, idx)
        kept = tfm._kept['after']
        assert list(seen) == list(range(N)) and same(kept, alone._kept['after']), sampler
        assert torch.is_tensor(kept) or kept, sampler

def test_feedback_with_heun():
    "Heun's steps with feedback are those of its authors: one scale for a step, and the evidence of the corrected point (FBG, arXiv 2506.06085)"
    levels, pi, top = SIGMAS[:-1].tolist(), .95, 10.
    (tau, delta), low = feedback_terms(levels, pi, .5, .4), math.log((1 - pi)*top/(top - 1))
    x, odds, scales = noise, torch.zeros(20, dtype=torch.float64), []
    both_of = lambda x, s: [mix.denoise(x, 1., s, both[k]) for k in ('uncond', 'cond')]
    for s, s2 in zip(levels, (*levels[1:], 0.)):
        scales.append(g := (odds.exp()/(odds.exp() - (1 - pi)))[:, None])
        u, t = both_of(x, s)
        d = (x - u - g*(t - u))/s
        after = x + (s2 - s)*d
        if s2:
            u2, t2 = both_of(after, s2)
            after = x + (s2 - s)*(d + (after - u2 - g*(t2 - u2))/s2)/2
            keep = (s2/s)**2
            miss = [(after - keep*x - (1 - keep)*p).square().sum(1) for p in (t, u)]
            odds = (odds - tau/(2*(s*s - s2*s2)*keep)*(miss[0] - miss[1]) + delta).clamp(low, 3.)
        x = after
    got = K.sample_heun(GuidedDenoiser(perfect, guidance('feedback', g=top), SIGMAS), noise, SIGMAS, extra_args=both,
                        disable=True)
    assert (got - x).abs().max() < 1e-6 and max(map(torch.max, scales)) > 2*min(map(torch.min, scales))

def test_samplers_with_levels_of_their_own():
    "`dpm_fast` and `dpm_adaptive` are looked up by level; one run is reset once, also where steps are rejected"
    tfm = Noting()
    den, went_back = GuidedDenoiser(perfect, tfm, SIGMAS), []
    for f, kw in ((K.sample_dpm_fast, {'n': 9}), (K.sample_dpm_fast, {'n': 11, 'eta': 1.}), (K.sample_dpm_adaptive, {}),
                  (K.sample_dpm_adaptive, {'order': 2, 'rtol': .002, 'h_init': 1.}),
                  (K.sample_dpm_adaptive, {'eta': 1.}), (K.sample_dpm_adaptive, {'h_init': 4.})):
        for top in (10., 2.):
            begun = len(tfm.calls)
            torch.manual_seed(0)
            out = f(den, noise*top/10, .05, top, extra_args=both, disable=True, **kw)
            assert torch.isfinite(out).all() and tfm.resets[-1] == begun and tfm.resets.count(begun) == 1
            assert all(SIGMAS[k]*1.002 >= k.b >= SIGMAS[k + 1]*.998 for k in tfm.calls[begun:])
            went_back.append(any(p > q for p, q in zip(tfm.calls[begun:], tfm.calls[begun + 1:])))
    assert len(tfm.resets) == len(went_back) and any(went_back[4:])

def test_rejected_steps_are_forgotten():
    "After a step that `dpm_adaptive` rejects, a memory is what it was before it"
    tfm, levels = guidance('apg', beta=-.5), (10., 5., 2., 1., .5, .2, .1, .05, 0.)
    alone, past = guidance('apg', beta=-.5), {}
    class Watched:
        reset, needs = tfm.reset, tfm.needs
        def __call__(self, u, t, idx):
            for k in [k for k in past if k > idx]: del past[k]                          # rejected
            past.setdefault(int(idx), (u, t, idx))
            pred = tfm(u, t, idx)
            alone.reset()
            for k in sorted(past): alone(*past[k])
            assert same(tfm._kept['before'], alone._kept['before'])
            back.append(int(idx))
            return pred
        _kept = property(lambda self: tfm._kept, lambda self, kept: setattr(tfm, '_kept', kept))
    back = []
    K.sample_dpm_adaptive(GuidedDenoiser(perfect, Watched(), levels), noise, .05, 10., extra_args=both, disable=True,
                          h_init=3., rtol=.01)
    assert any(p > q for p, q in zip(back, back[1:]))

def test_log_likelihood():
    "The likelihood of k-diffusion goes through the denoiser: that of `t` alone at a scale of 1, in one run"
    tfm = Noting()
    plain = lambda x, sigma, cond, uncond: perfect(x, sigma, cond)
    x, calls, some = mix.sample(3, seed=3).double(), [], {k: v[:3] for k, v in both.items()}

    def ends(model):
        torch.manual_seed(0)
        return K.log_likelihood(model, x, .5, 10., extra_args=some, atol=.01, rtol=.01)[0]
    assert (ends(GuidedDenoiser(perfect, guidance('cfg', g=1.), SIGMAS)) - ends(plain)).abs().max() < 1e-9
    for _ in range(2): ends(GuidedDenoiser(perfect, tfm, SIGMAS)); calls.append(len(tfm.calls))
    assert tfm.resets == [0, calls[0]] and all(
        (k == 0 or SIGMAS[k]*1.002 >= k.b) and k.b >= SIGMAS[k + 1]*.998 for k in tfm.calls)

def test_record_of_a_run():
    "`record` has a row for each call of the last run, whatever the sampler"
    den = GuidedDenoiser(perfect, guidance('apg', beta=-.5), SIGMAS, record=True)
    for name in SAMPLERS:
        sampled(name, den, noise, **both)
        assert [r['step'] for r in den.record.rows] == steps_of(name)
    K.sample_dpm_adaptive(den, noise, .05, 10., extra_args=both, disable=True, h_init=4.)
    assert len(den.record.rows) > N

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_short_numbers(dtype):
    "In half precision, where a level is rounded, each call is still of its own step"
    tfm = Noting()
    den = GuidedDenoiser(lambda x, sigma, cond: perfect(x, sigma, cond).to(x.dtype), tfm, SIGMAS)
    for name in SAMPLERS:
        tfm.calls.clear()
        assert sampled(name, den, noise.to(dtype), SIGMAS.float(), **both).dtype == dtype or dtype != torch.float32
        assert [int(c) for c in tfm.calls] == steps_of(name), name
