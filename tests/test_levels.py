"""The noise level that is told in every call of every diffusers scheduler, with each spacing and sigma
option, beside the level that it scales its input by, and the one that an exact oracle proves."""
import inspect, warnings
import diffusers, numpy as np, pytest, torch
from cf_guidance.adapters import as_pipeline, guided
from cf_guidance.adapters.callbacks import _calls
from cf_guidance.adapters import host_run
from cf_guidance.pieces import REFUSED, scalings
from cf_guidance.sampling import begin_run, call_steps, lms_coefficient, run_sigmas, built_in

SPACINGS = 'linspace', 'leading', 'trailing'
SIGMAS = 'use_karras_sigmas', 'use_exponential_sigmas', 'use_beta_sigmas', 'use_lu_lambdas', 'use_flow_sigmas'
NOISY = '''DDPM DDPMParallel EulerAncestralDiscrete FlowMatchLCM KDPM2AncestralDiscrete LCM SASolver TCD
    LTXEulerAncestralRF DPMSolverSDE'''.split()      # these add noise of their own
STEADY = '''CogVideoXDDIM DDIM DDIMParallel DEISMultistep DPMSolverMultistep DPMSolverSinglestep EulerDiscrete
    FlowMapEulerDiscrete FlowMatchEulerDiscrete FlowMatchHeunDiscrete HeunDiscrete KDPM2Discrete LMSDiscrete
    MiniMaxH3 PNDM UniPCMultistep'''.split()
JUMPS = 'CogVideoXDDIM DDIM DDIMParallel PNDM'.split()      # go on by 1000//n, whatever their spacing is
MORE = {    # options beside spacing and sigmas
    'DDIM': [
        dict(rescale_betas_zero_snr=True, timestep_spacing='trailing'),
        dict(set_alpha_to_one=False, steps_offset=1)
    ], 'CogVideoXDDIM': [dict(rescale_betas_zero_snr=True, timestep_spacing='trailing')], 'EulerDiscrete': [
        dict(rescale_betas_zero_snr=True, timestep_spacing='trailing'),
        dict(final_sigmas_type='sigma_min'),
        dict(timestep_type='continuous', use_karras_sigmas=True, sigma_min=.002, sigma_max=700.),
        dict(interpolation_type='log_linear')
    ], 'EulerAncestralDiscrete': [dict(rescale_betas_zero_snr=True, timestep_spacing='trailing')],
    'DPMSolverMultistep': [
        dict(rescale_betas_zero_snr=True, timestep_spacing='trailing'),
        dict(final_sigmas_type='sigma_min'),
        dict(solver_order=3),
        dict(euler_at_final=True),
        dict(solver_type='heun'),
        dict(algorithm_type='sde-dpmsolver++', use_karras_sigmas=True),
        dict(use_flow_sigmas=True, flow_shift=12.)
    ], 'UniPCMultistep': [
        dict(rescale_betas_zero_snr=True, timestep_spacing='trailing'),
        dict(final_sigmas_type='sigma_min', use_karras_sigmas=True),
        dict(solver_order=3),
        dict(use_flow_sigmas=True, flow_shift=12.),
        dict(use_flow_sigmas=True, use_karras_sigmas=True),
        dict(use_flow_sigmas=True, shift_terminal=.1)
    ], 'DPMSolverSinglestep': [dict(solver_order=3),
                               dict(final_sigmas_type='sigma_min')], 'DEISMultistep': [dict(solver_order=3)],
    'SASolver': [dict(use_karras_sigmas=True, predictor_order=3),
                 dict(algorithm_type='noise_prediction')], 'FlowMatchEulerDiscrete': [
                     dict(shift=3.),
                     dict(invert_sigmas=True),
                     dict(stochastic_sampling=True),
                     dict(shift_terminal=.1),
                     dict(use_dynamic_shifting=True),
                     dict(use_dynamic_shifting=True, time_shift_type='linear')
                 ], 'FlowMatchHeunDiscrete': [dict(shift=3.)], 'FlowMapEulerDiscrete': [dict(shift=5.)],
    'FlowMatchLCM': [dict(shift=3.)]
}
GIVEN = [    # what `set_timesteps` is given in place of a number
    ('DDPM', {}, dict(timesteps=[901, 500, 499, 20])), ('LCM', {}, dict(timesteps=[999, 759, 499, 259])),
    ('TCD', {}, dict(timesteps=[999, 759, 499, 259])), ('HeunDiscrete', {}, dict(timesteps=[901, 500, 499, 20])),
    ('DPMSolverMultistep', {}, dict(timesteps=[901, 500, 499, 20])),
    ('DPMSolverSinglestep', {}, dict(timesteps=[901, 500, 499, 20])),
    ('EulerDiscrete', {}, dict(timesteps=[901, 500, 499, 20])),
    ('EulerDiscrete', {}, dict(sigmas=[14., 3., 2.99, .1, 0.])),
    ('FlowMatchEulerDiscrete', dict(shift=3.), dict(sigmas=[1., .7, .69, .1])),
    ('FlowMapEulerDiscrete', {}, dict(sigmas=[1., .7, .69, .1])),
    ('UniPCMultistep', dict(use_flow_sigmas=True), dict(sigmas=np.array([1., .7, .69, .1])))
]

def options(name, every=True):
    "Configs of a scheduler"
    known = inspect.signature(getattr(diffusers, name + 'Scheduler').__init__).parameters
    spacings = [dict(timestep_spacing=s) for s in SPACINGS if 'timestep_spacing' in known]
    own = [{}, *(dict([(k, True)]) for k in SIGMAS if k in known)]
    confs = [dict(s, **o) for s in spacings for o in own] if every and spacings else [*own, *spacings]
    return [*confs, *MORE.get(name, [])]

def made(name, conf, pred='epsilon'):
    known = inspect.signature(getattr(diffusers, name + 'Scheduler').__init__).parameters
    if 'prediction_type' in known:
        # has no image in its first latents, so epsilon does not tell it
        zero = conf.get('rescale_betas_zero_snr')
        conf = dict(
            conf,
            prediction_type='flow_prediction' if conf.get('use_flow_sigmas') else 'v_prediction' if zero else pred)
    if 'beta_schedule' in known: conf = dict(beta_start=.00085, beta_end=.012, beta_schedule='scaled_linear') | conf
    return getattr(diffusers, name + 'Scheduler')(**conf,
                                                  **(dict(noise_sampler_seed=0) if name == 'DPMSolverSDE' else {}))

def begun(s, n=None, begin=0, **given):
    "Set a scheduler to its steps, at the call of number `begin`"
    # by an exact formula, in place of a search of 50 evaluations
    if hasattr(s, 'get_lms_coefficient'):
        s.get_lms_coefficient = lambda order, t, k: lms_coefficient(s.sigmas.tolist(), order, t, k)
    if getattr(s.config, 'use_dynamic_shifting', False): given = dict(given, mu=.9)
    s.set_timesteps(**(given if {'timesteps', 'sigmas'} & set(given) else dict(given, num_inference_steps=n)))
    if hasattr(s, 'set_begin_index'): s.set_begin_index(begin)
    return s

def oracle(s, a, b, space, x0, eps):
    "What a network says that knows image and noise; and the shares in its own order"
    if getattr(s.config, 'invert_sigmas', False): return b, a, x0 - eps
    if type(s).__name__ == 'MiniMaxH3Scheduler': return a, b, x0 - eps
    return a, b, {'epsilon': eps, 'v_prediction': (a*eps - b*x0)/(a*a + b*b)**.5, 'sample': x0, 'flow': eps - x0}[space]

def table(s, begin=0, noisy=False):
    "For each call: the told level, its factor for the input less the scheduler's, and how far the latents are from it"
    gen, side = torch.Generator().manual_seed(0), 64 if noisy else 8
    x0, eps = torch.rand(2, 1, 4, side, side, generator=gen, dtype=torch.float64)*1.8 - .9
    eps = torch.randn(x0.shape, generator=gen, dtype=torch.float64)
    x, rows, extra = None, [], {'generator': gen} if 'generator' in inspect.signature(s.step).parameters else {}
    for ts in s.timesteps[begin:]:
        share = scalings(s, ts)
        if x is None: a, b, _ = oracle(s, *share, x0, eps); x = a*x0 + b*eps
        y = s.scale_model_input(x, ts) if hasattr(s, 'scale_model_input') else x
        assert scalings(s, ts) == share                                  # the same, whenever it is asked
        by, own = (y/x).median().item(), (share[0]**2 + share[1]**2)**-.5 if not torch.equal(x, y) else 1.
        a, b, pred = oracle(s, *share, x0, eps)
        now = (x - a*x0)/b
        far = abs(now.square().mean().sqrt().item() - 1) if noisy else (now - eps).abs().max().item()
        rows.append((b/a if a else float('inf'), abs(by - own)/own, far))
        if noisy: pred = oracle(s, *share, x0, now)[2]
        x = s.step(pred, ts, x, **extra).prev_sample
    return rows

EPS = torch.finfo(torch.float32).eps
SCALED = 8*EPS          # a few roundings of float32
BY_CHANCE = .03         # five deviations of the spread of 4*64*64 numbers, 5/sqrt(2*16384)

def bound(name, levels):
    "How far rounding takes latents from the oracle's line, in parts of the smallest noise"
    # its coefficients divide float32 sums by differences of neighbouring levels
    if name == 'DEISMultistep': return .1
    some = [v for v in levels if v < float('inf')]
    return .001 + 64*EPS*max(some)/min(some)   # each step rounds at the size of the latents

def held(name, conf, n=None, begin=0, pred='epsilon', **given):
    noisy = name in NOISY or conf.get('stochastic_sampling') or 'sde' in conf.get('algorithm_type', '')
    s = begun(made(name, conf, pred), n, begin, **given)
    steps = getattr(s, 'num_inference_steps', None) or len(s.timesteps)
    if begin == 0:
        try: calls = call_steps(s, steps)
        except ValueError: calls = list(range(len(s.timesteps)))
        firsts = run_sigmas(s, calls)
    rows = table(s, begin, noisy)
    if begin == 0:
        assert list(firsts) == pytest.approx([rows[calls.index(k)][0] for k in range(calls[-1] + 1)], rel=4*EPS)
    most = BY_CHANCE if noisy else bound(name, [r[0] for r in rows])
    return max(r[1] for r in rows), max(r[2] for r in rows), most

def exact(name, conf):
    "Whether a scheduler with an oracle stays on its line; where not, it is told the level that it converts by"
    if name == 'PNDM': return False                                      # its formula is an approximation
    # so is this, of its noise
    if name == 'SASolver' and conf.get('algorithm_type') == 'noise_prediction': return False
    return not (name in JUMPS and conf.get('timestep_spacing') == 'linspace')

def check(name, conf, n=None, **more):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        scaled, far, most = held(name, conf, n, **more)
    assert scaled < SCALED, (name, conf, n, scaled)
    if exact(name, conf): assert far < most, (name, conf, n, far, most)

@pytest.mark.parametrize('name', [*STEADY, *NOISY])
def test_each_level_is_that_of_the_scheduler(name, every):
    few = 1 if name == 'DPMSolverSDE' and not every else None            # its Brownian tree takes long
    for conf in options(name, every)[:few]:
        for n in (5, 20, 50) if every else (20,): check(name, conf, n)
    known = inspect.signature(getattr(diffusers, name + 'Scheduler').__init__).parameters
    if every and 'prediction_type' in known: check(name, {}, 20, pred='v_prediction')

def test_jumps_are_told_what_they_convert_by():
    for name in JUMPS:
        for spacing in SPACINGS:
            s = begun(made(name, dict(timestep_spacing=spacing)), 20)
            for ts in s.timesteps:
                a, b, _ = scalings(s, ts)
                assert a*a == pytest.approx(s.alphas_cumprod[ts].item(), abs=4*EPS) and a*a + b*b == pytest.approx(
                    1, abs=4*EPS)

@pytest.mark.parametrize('name,conf,given', GIVEN)
def test_given_timesteps_and_sigmas(name, conf, given): check(name, conf, **given)

@pytest.mark.parametrize('name', 'DPMSolverMultistep UniPCMultistep EulerDiscrete HeunDiscrete KDPM2Discrete '
                                 'FlowMatchEulerDiscrete SASolver'.split())
def test_a_run_that_begins_late(name, every):
    for conf in [c for c in options(name, False) if not c.get('use_dynamic_shifting')][:None if every else 2]:
        for start in (1, 7, 19): check(name, conf, 20, begin=start*getattr(diffusers, name + 'Scheduler').order)

def test_every_scheduler_is_in_the_table():
    named = {*STEADY, *NOISY}
    others = '''Amused BlockRefinement CogVideoXDPM DDPMWuerstchen DiscreteDDIM EntropyBound Helios HeliosDMD IPNDM KarrasVe Piflow
        RFD4Proteina RePaint SCM ScoreSdeVe UnCLIP VQDiffusion'''.split()      # draw tokens, go by stages, or are told more than a timestep
    known = {
        n.removesuffix('Scheduler')
        for n in dir(diffusers)
        if n.endswith('Scheduler') and not n.startswith('Flax')
    }
    assert known - {n.removesuffix('Scheduler') for n in REFUSED} - named == set(others)

DOUBLED = [('DPMSolverMultistep', 'use_exponential_sigmas', 20), ('UniPCMultistep', 'use_beta_sigmas', 32),
           ('DEISMultistep', 'use_karras_sigmas', 45), ('DPMSolverMultistep', 'use_lu_lambdas', 30)]

def seen(rows):
    def tfm(u, t, idx): rows.append((int(idx), idx.b/idx.a, idx.sigma)); return t
    return tfm

@pytest.mark.parametrize('name,option,n', DOUBLED)
def test_two_steps_of_one_timestep(name, option, n):
    s = getattr(diffusers, name + 'Scheduler').from_config(dict(built_in().scheduler.config), **{option: True})
    s.set_timesteps(n)
    levels = s.sigmas[:n].tolist()
    assert len(set(s.timesteps.tolist())) < n
    assert begin_run(built_in(), s, n).sigmas == pytest.approx(levels, rel=8*EPS)
    at = next(k for k in range(n - 1) if s.timesteps[k] == s.timesteps[k + 1])
    for call in (at, at + 1):
        run = host_run(s, call, n, s.timesteps[call].item())
        assert run.sigmas == pytest.approx(levels, rel=8*EPS)
    pipe, rows = as_pipeline(), []
    pipe.scheduler = s
    said = []
    def told(pipe, i, ts, kw): said.extend(_calls(pipe, ts) if i == 0 else ()); return kw

    with guided(pipe, seen(rows)):
        pipe('a red cone', guidance_scale=3., num_inference_steps=n, output_type='latent', callback_on_step_end=told)
    for got in ([b for _, b, _ in rows], [b for *_, b in rows], [step.sigma for step in said]):
        assert got == pytest.approx(levels, rel=8*EPS)
    assert [k for k, *_ in rows] == list(range(n))

@pytest.mark.parametrize('name',
                         ['KDPM2Discrete', 'KDPM2AncestralDiscrete', 'DPMSolverSDE', 'HeunDiscrete', 'EulerDiscrete'])
def test_second_calls_in_a_pipeline(name):
    pipe, rows, real = as_pipeline(), [], []
    more = dict(noise_sampler_seed=1) if name == 'DPMSolverSDE' else {}
    s = pipe.scheduler = getattr(diffusers, name + 'Scheduler').from_config(dict(pipe.scheduler.config), **more)
    own = s.scale_model_input
    def scaled(x, ts): y = own(x, ts); real.append((x.double()/y.double()).median().item()); return y
    s.scale_model_input = scaled
    with guided(pipe, seen(rows)): pipe('a red cone', guidance_scale=3., num_inference_steps=5, output_type='latent')
    assert [(1 + b*b)**.5 for _, b, _ in rows] == pytest.approx(real, rel=1e-6)
