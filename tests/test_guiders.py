"A `ScheduledGuider` in pipelines of Modular Diffusers, with tiny random components"
import copy, inspect, pytest, torch, diffusers as df
from functools import wraps
from modular import HOSTS, sdxl, wan22
from cf_guidance.adapters import ScheduledGuider
from cf_guidance.transforms import TRANSFORMS, guidance
from cf_guidance.schedules import Step, constant, cosine
from cf_guidance.adapters import from_diffusers

@pytest.fixture(scope='module', params=HOSTS)
def host(request): return request.param, *HOSTS[request.param]()

@pytest.fixture(autouse=True)
def silent():
    level = df.utils.logging.get_verbosity()
    df.utils.logging.set_verbosity(df.utils.logging.CRITICAL)
    yield
    df.utils.logging.set_verbosity(level)

def network(pipe): return pipe.unet if hasattr(pipe, 'unet') else pipe.transformer

def run(pipe, kw, guider, name='guider'):
    "Latents, and for each call of the sampler the predictions before it, what it was handed, its timestep and its latents"
    pipe.update_components(**{name: guider})
    nets, log, preds, step = {network(pipe), getattr(pipe, 'transformer_2', None)
                              or network(pipe)}, [], [], pipe.scheduler.step
    forwards = {net: net.forward for net in nets}
    def told(forward):
        @wraps(forward)                                                  # Qwen-Image looks at the signature
        def _forward(*args, **kwargs): preds.append(forward(*args, **kwargs)[0]); return (preds[-1],)
        return _forward
    def stepped(pred, ts, x, **kwargs):
        log.append((preds[:], pred, float(ts), x)); preds.clear()
        return step(pred, ts, x, **kwargs)
    pipe.scheduler.step = stepped
    for net in nets: net.forward = told(forwards[net])
    try: return pipe(**kw, generator=torch.Generator().manual_seed(0)), log
    finally:
        del pipe.scheduler.step
        for net in nets: del net.forward

def at_step(scheduler, log, i, near=lambda v: v):
    "The step with all that can be known, by the sampler's own noise levels"
    sig = scheduler.sigmas.tolist()
    flow = hasattr(scheduler, 'scale_noise') or scheduler.config.prediction_type == 'flow_prediction'
    shares = [(1 - s, s) if flow else (1., s) for s in sig]
    start = len(sig) - 1 - len(log)
    sigmas = [b/a if a > 0 else float('inf') for a, b in shares[start:start + len(log)]]
    return Step(i, len(log), sigmas=sigmas, timestep=log[i][2], timesteps=[ts for _, _, ts, _ in log],
                x=near(log[i][3]), a=near(shares[start + i][0]), b=near(shares[start + i][1]),
                space='flow' if flow else scheduler.config.prediction_type)

def nudge(v, gen):
    "A number or a tensor, moved by 2 ulp or so"
    r = 2*torch.finfo(torch.float32).eps*torch.randn(getattr(v, 'shape', ()), generator=gen)
    return v*(1 + r) if isinstance(v, torch.Tensor) else v*(1 + r.item())

def after(name, pred, t):
    "What a loop does to a guided prediction before the sampler gets it"
    return pred*(t.norm(dim=-1, keepdim=True)/pred.norm(dim=-1, keepdim=True)) if name == 'qwen' else pred

def by_hand(name, pipe, log, tfm, eps):
    """The sampler was handed what the transform makes of the predictions, and no pass was made that it does not need.

    To `eps` of the largest number, and to what the rule itself makes of the last bits: the same with all that it reads moved by 2 ulp tells how much that is"""
    tfm, gen = copy.deepcopy(tfm), torch.Generator().manual_seed(0)
    nudged = [copy.deepcopy(tfm) for _ in range(4*(eps > 0))]
    for i, (preds, pred, *_) in enumerate(log):
        step = at_step(pipe.scheduler, log, i)
        needs = tfm.needs(step) or {'t'}
        made = needs | {'t'} if name == 'qwen' else needs
        assert len(preds) == len(made), (i, needs)
        # the pass that Qwen-Image wants is made last
        order = [k for k in ('u', 't', 'weak')
                 if k in made] if made != needs else [k for k in ('t', 'u', 'weak') if k in made]
        got = dict(zip(order, preds))
        def make(tfm, step, near=lambda v: v):
            by = {k: near(got[k]) for k in needs}
            return after(name, tfm(by.pop('u', None), by.pop('t', None), idx=step, **by), got.get('t'))
        want = make(tfm, step)
        near = lambda v: nudge(v, gen)
        loose = max([(make(other, at_step(pipe.scheduler, log, i, near), near) - want).abs().max().item()
                     for other in nudged], default=0)
        torch.testing.assert_close(pred, want, rtol=0, atol=eps*want.abs().max().item() + 16*loose)

def test_constant_scale_is_their_guider(host):
    name, pipe, kw = host
    for g in (7.5, 1.5, .4, 1.):
        # Wan crashes with their guider at 1
        theirs, log = run(pipe, kw, df.ClassifierFreeGuidance(guidance_scale=g)) if name != 'wan' or g != 1 else (None,
                                                                                                                  None)
        ours, own = run(pipe, kw, ScheduledGuider(guidance('cfg', g=g)))
        assert sum(len(preds) for preds, *_ in own) == (6 if g == 1 else 12)
        if log: assert torch.equal(ours, theirs) and [len(a) for a, *_ in log] == [len(a) for a, *_ in own]

SHAPES = {
    'from 1 up': [1, 1, 2, 4, 6, 8], 'down to 1': [8, 6, 4, 2, 1, 1], 'through 1': [3, 1, 0, .5, 1, 3],
    'below 1': '.6*pos', 'cosine': cosine(9, 0)
}
@pytest.mark.parametrize('shape', SHAPES)
def test_schedules(host, shape):
    name, pipe, kw = host
    tfm = guidance('cfg', g=SHAPES[shape])
    guider = ScheduledGuider(tfm)
    x, log = run(pipe, kw, guider)
    by_hand(name, pipe, log, tfm, 0 if name != 'qwen' else 1e-6)
    assert torch.isfinite(x).all() and torch.equal(x, run(pipe, kw, guider)[0])              # a second call
    want = [1 if g in (0, 1) else 2 for g in tfm._lifted['g'].values(6)]
    assert [len(preds) for preds, *_ in log
            ] == [n + (name == 'qwen' and g == 0) for n, g in zip(want, tfm._lifted['g'].values(6))]

def test_a_window_crashes_with_their_guider_in_the_second_call():
    pipe, kw = HOSTS['sdxl']()
    guider = df.ClassifierFreeGuidance(guidance_scale=7.5, stop=.8)
    x = run(pipe, kw, guider)[0]
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute"): run(pipe, kw, guider)
    ours = ScheduledGuider(from_diffusers(guider))
    assert all(torch.equal(x, run(pipe, kw, ours)[0]) for _ in range(2))

def test_a_scale_of_zero_in_qwen_is_their_guider():
    pipe, kw = HOSTS['qwen']()
    assert torch.equal(
        run(pipe, kw, ScheduledGuider(guidance('cfg', g=0)))[0],
        run(pipe, kw, df.ClassifierFreeGuidance(guidance_scale=0.))[0])

def test_window_in_sigma(host):
    name, pipe, kw = host
    log = run(pipe, kw, ScheduledGuider(guidance('cfg', g=1)))[1]
    levels = at_step(pipe.scheduler, log, 0).sigmas
    lo, hi = levels[4]*1.01, levels[1]*1.01
    tfm = guidance('cfg', g=constant(5).within(sigma=(lo, hi)))
    x, log = run(pipe, kw, ScheduledGuider(tfm, pipe))
    assert [len(preds) for preds, *_ in log] == [1, 2, 2, 2, 1, 1]
    by_hand(name, pipe, log, tfm, 1e-6)
    with pytest.raises(ValueError, match='`pipe` must be given.*for cfg: a window in sigma'):
        run(pipe, kw, ScheduledGuider(tfm))

SPACED = {
    'rescale': dict(g=5, phi='pos'), 'apg': dict(g=cosine(9), eta=.2, r=5, beta=-.5), 'base_norm': dict(g=cosine(9)),
    'smc': dict(g=4), 'feedback': dict(g=8)
}
@pytest.mark.parametrize('rule', SPACED)
def test_rules_with_a_space(host, rule):
    name, pipe, kw = host
    tfm = guidance(rule, **SPACED[rule])
    guider = ScheduledGuider(tfm, pipe)
    x, log = run(pipe, kw, guider)
    by_hand(name, pipe, log, tfm, 1e-6)
    assert torch.isfinite(x).all() and torch.equal(x, run(pipe, kw, guider)[0])
    with pytest.raises(ValueError, match=f'`pipe` must be given.*for {rule}: it acts in the space'):
        run(pipe, kw, ScheduledGuider(tfm))

def test_zeroed_steps(host):
    name, pipe, kw = host
    guider = ScheduledGuider(guidance('cfg_zero', g=4, zero_steps=2), pipe)
    if name == 'qwen':
        with pytest.raises(ValueError, match='`tfm` must not return a token of zeros'): run(pipe, kw, guider)
        return
    x, log = run(pipe, kw, guider)
    assert [len(preds) for preds, *_ in log] == [1, 1, 2, 2, 2, 2] and torch.isfinite(x).all()
    by_hand(name, pipe, log, guidance('cfg_zero', g=4, zero_steps=2), 1e-6)
    # the velocity; a noise of 0 is another thing
    if name != 'sdxl': assert not log[0][1].any() and not log[1][1].any()

def test_guiders_turned_into_transforms(host):
    name, pipe, kw = host
    for guider in (df.guiders.ClassifierFreeGuidance(6.5, use_original_formulation=True, stop=.7, start=.2),
                   df.guiders.ClassifierFreeGuidance(5., guidance_rescale=.7),
                   df.guiders.AdaptiveProjectedGuidance(6., adaptive_projected_guidance_momentum=-.5,
                                                        adaptive_projected_guidance_rescale=5.,
                                                        eta=.2), df.guiders.TangentialClassifierFreeGuidance(4.)):
        want, log = run(pipe, kw, guider)
        got, own = run(pipe, kw, ScheduledGuider(from_diffusers(guider)))
        assert [len(a) for a, *_ in log] == [len(a) for a, *_ in own]
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)

def test_weak_predictions(host):
    name, pipe, kw = host
    tfm = guidance('pag', g=4, s=[0, 3, 3, 0, 0, 0], layers='all')
    # their attention is that of text and image together
    if name != 'sdxl':
        with pytest.raises(ValueError, match="`layers` must be '' for "):
            run(pipe, kw, ScheduledGuider(tfm))
        return
    x, log = run(pipe, kw, ScheduledGuider(tfm))
    by_hand(name, pipe, log, tfm, 1e-6)
    assert [len(preds) for preds, *_ in log] == [2, 3, 3, 2, 2, 2]

def test_no_negative_prompt():
    pipe, kw = HOSTS['sd3']()
    del kw['negative_prompt']
    once, twice = (run(pipe, kw, df.ClassifierFreeGuidance(guidance_scale=g))[0] for g in (1., 9.))
    # their guider does nothing, and says nothing
    torch.testing.assert_close(once, twice)
    with pytest.raises(ValueError, match='the pipeline must be given a negative prompt, .* at step 2'):
        run(pipe, kw, ScheduledGuider(guidance('cfg', g=[1, 1, 2, 2, 2, 2])))
    assert torch.equal(run(pipe, kw, ScheduledGuider(guidance('cfg', g=1)))[0], once)

def test_two_stages():
    pipe, kw = wan22()
    tfms = [guidance('apg', g=cosine(9), eta=.2, r=5, beta=-.5), guidance('smc', g=4)]
    guiders = [ScheduledGuider(tfm, pipe) for tfm in tfms]
    pipe.update_components(guider=guiders[0])
    x, log = run(pipe, kw, guiders[1], 'guider_2')
    cut = sum(ts >= .875*1000 for _, _, ts, _ in log)
    assert 0 < cut < 6
    for k, tfm in enumerate(tfms):
        for i in range(*((0, cut) if k == 0 else (cut, 6))):
            (t, u), pred, *_ = log[i]
            torch.testing.assert_close(pred, tfm(u, t, idx=at_step(pipe.scheduler, log, i)), rtol=1e-4, atol=1e-4)
    # its run begins in the middle, again
    assert torch.equal(x, run(pipe, kw, guiders[1], 'guider_2')[0])

def test_img2img_is_the_end_of_a_run():
    pipe, kw = sdxl()
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    tfm = guidance('rescale', g=constant(5).within(sigma=(1, 4)))
    x, log = run(pipe, kw | dict(image=image, strength=.67), ScheduledGuider(tfm, pipe))
    assert len(log) == 4
    by_hand('sdxl', pipe, log, tfm, 1e-6)
    assert {len(preds) for preds, *_ in log} == {1, 2}

# what a guider does not reach: another text than the prompt and the negative one
OTHER_TEXTS = 'icg', 'perp_neg', 'compose', 'cads', 'nag', 'contrastive', 'sld'
# what predictions in tokens do not have
PLANES = 'fdg', 'fresca', 'zeresfdg', 'higs'
CHANNELS = 'cfg_norm', 'token_norm', 'mimic', 'reinhard', 'mahiro', 'samg', 'lf_cfg'
REMEMBER = [name for name, cls in TRANSFORMS.items() if 'state' in inspect.signature(cls.rule).parameters]

def test_every_transform(host, every):
    name, pipe, kw = host
    # a half of them in one host, and a third in each of the others, so that each rule is in one at least
    others = [h for h in HOSTS if h != 'sdxl']
    some = slice(0, None, 2) if name == 'sdxl' else slice(others.index(name) % 3, None, 3)
    rules = list(TRANSFORMS)[slice(None) if every else some]
    for rule in rules:
        try: guider = ScheduledGuider(guidance(rule), pipe)
        except ValueError as e: assert rule in OTHER_TEXTS and rule in str(e); continue
        no = {'cfg_zero': 'a token of zeros'} if name == 'qwen' else {}
        if name == 'qwen':
            no |= dict.fromkeys(PLANES, 'an image plane') | dict.fromkeys(CHANNELS, 'dimension 1 as channels')
        if name != 'sdxl':
            no |= dict.fromkeys(
                ('pag', 'seg', 'slg', 'autoguidance'), '`layers` must be') | dict(tsg='must have a `time_embedding`')
        if rule in no:
            with pytest.raises(ValueError, match=no[rule]): run(pipe, kw, guider)
            continue
        x, log = run(pipe, kw, guider)
        by_hand(name, pipe, log, guidance(rule), 1e-6)
        # a second run is as the first, where something could be left of it
        if every or rule in REMEMBER or guidance(rule).weaker: assert torch.equal(x, run(pipe, kw, guider)[0])
