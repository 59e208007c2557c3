"What `guided` must not get wrong in other people's pipelines: which prediction is which, which step it is, and what it leaves behind"
import copy, functools, inspect, pickle
import diffusers as df, pytest, torch
from diffusers.models.attention_processor import AttnProcessor2_0
from cf_guidance.adapters import pipelines as adapters, as_pipeline, guided
from cf_guidance.transforms import RULES, guidance
from cf_guidance.pieces import Pieces
from cf_guidance.schedules import constant
from test_families import FAMILIES, by_token, close, draw, hosted, whole

SD, XL, FLUX = 'StableDiffusionPipeline', 'StableDiffusionXLPipeline', 'FluxPipeline+true_cfg'
cfg, to_t, to_u = [guidance('cfg', g=g) for g in (5., constant(5.).then(1, at=.5), constant(5.).then(0, at=.5))]

def family(name): return FAMILIES[name][1].FAMILIES[name]()

def spied(seen):
    return lambda u, t, idx: seen.append(idx) or u + 5*(t - u)

@pytest.fixture
def sd(): return family(SD)

@pytest.mark.parametrize('name', ['KandinskyV22PriorPipeline', 'KandinskyPriorPipeline'])
def test_one_embedding_is_two_dimensional(name):
    "One prompt, no negative prompt: no number of (1, n) may have a weight of its own, else any sign fits"
    pipe, kw = family(name)
    kw |= dict(prompt='a red circle', negative_prompt=None)
    own = draw(name, pipe, kw, 5.)
    with guided(pipe, cfg) as host: assert torch.equal(draw(name, pipe, kw, 1.5), own)
    assert (host.u, host.sign) == (0, 1) and not torch.equal(draw(name, pipe, kw, 1.5), own)

@pytest.mark.parametrize('name, tfm', [('IFPipeline', to_u), ('KandinskyV22Pipeline', to_u), ('OmniGenPipeline', to_u),
                                       ('OmniGenPipeline', to_t)])
def test_both_halves_are_made(name, tfm):
    "A learned variance is that of `t`, also where only `u` is read; OmniGen's mask and positions are made for the longest text of the batch"
    pipe, kw = family(name)
    out, host = hosted(name, pipe, kw, tfm)
    assert close(out, whole(name, pipe, kw, tfm)) and host.saved == 0
    assert name == 'OmniGenPipeline' or hosted(name, pipe, kw, to_t)[1].saved > 0

def test_prior_before_the_run_is_not_counted():
    "StableUnCLIP's prior and decoder have the same timesteps, and the second call of a block is as the first, but for the rounding of the one step that was made in halves"
    name = 'StableUnCLIPPipeline'
    pipe, kw = family(name)
    pipe.scheduler = df.DDIMScheduler.from_config(pipe.scheduler.config, steps_offset=0)
    with guided(pipe, guidance('cfg', g=constant(1.).then(5, at=.5))) as host:
        (first, *rest), saved = zip(*[(draw(name, pipe, kw | dict(prior_num_inference_steps=10), 3., 10), host.saved)
                                      for _ in 'abc'])
    pipe.prior_scheduler.set_timesteps(10)
    assert pipe.prior_scheduler.timesteps.tolist() == pipe.scheduler.timesteps.tolist()
    # two rows in 5 of 10 steps, of which the first call has to see one
    assert saved == (8, 18, 28)
    assert close(first, rest[0]) and torch.equal(*rest)                  # equal batches, equal bits

class Across(AttnProcessor2_0):
    "Attention that looks across the batch, as that of one's own may"
    def __call__(self, attn, x, *args, **kwargs):
        out = super().__call__(attn, x, *args, **kwargs)
        return out + .5*out.mean(0, keepdim=True)

def ones_own(pipe): pipe.unet.set_attn_processor(Across())

def cached(pipe):
    pipe.transformer.enable_cache(
        df.PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=2,
                                           spatial_attention_timestep_skip_range=(-1, 1001),
                                           current_timestep_callback=lambda: 500))
    assert pipe.transformer.is_cache_enabled

@pytest.mark.parametrize('name, change', [(SD, ones_own), ('LTXPipeline', cached)])
def test_a_batch_that_hangs_together(name, change):
    "No pass is left out where attention may look across the batch, or a cache has its size"
    pipe, kw = family(name)
    assert hosted(name, pipe, kw, to_t)[1].saved > 0
    change(pipe)
    out, host = hosted(name, pipe, kw, to_t)
    assert host.saved == 0 and (change is cached or torch.equal(out, whole(name, pipe, kw, to_t)))

@pytest.mark.parametrize('strength', [1., .8, .3])
@pytest.mark.parametrize('pos_by', ['step', 'sigma'])
def test_plms_from_an_image(monkeypatch, strength, pos_by):
    "PLMS has one timestep twice: the steps that are seen are those that are made"
    name, seen, made, own = 'StableDiffusionImg2ImgPipeline', [], [], df.PNDMScheduler.step
    pipe, kw = family(name)
    pipe.scheduler = df.PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=True)
    @functools.wraps(own)
    def step(self, *args, **kwargs):
        made.append(int(inspect.signature(own).bind(self, *args, **kwargs).arguments['timestep']))
        return own(self, *args, **kwargs)
    monkeypatch.setattr(df.PNDMScheduler, 'step', step)
    with guided(pipe, spied(seen), pos_by): draw(name, pipe, kw | dict(strength=strength), 3., 10)
    first = list(dict.fromkeys(made))
    # a whole run makes its first step twice
    late, which = (10 - len(first))*(pos_by == 'sigma'), [0]*(strength == 1) + [*range(len(first))]
    noise = [((1 - a)/a).sqrt().item() for a in pipe.scheduler.alphas_cumprod[first]]
    assert len(first) == {1.: 10, .8: 9, .3: 4}[strength] and [s.timestep for s in seen] == made
    assert [(int(s), s.n) for s in seen] == [(late + k, late + len(first)) for k in which]
    for s, k in zip(seen, which):
        assert s.sigma == pytest.approx(noise[k]) and s.sigmas[late:] == pytest.approx(noise) and [*s.timesteps[late:]
                                                                                                   ] == first

class Rescaled(df.StableDiffusionPipeline):
    "A pipeline that rescales by a variable of its own"
    def __call__(self, *args, **kwargs): return super().__call__(*args, guidance_rescale=.7, **kwargs)

@pytest.mark.parametrize('s', [3., 7.])
def test_rescaled_out_of_sight(sd, s):
    pipe, kw, own, seen = *sd, Rescaled(**sd[0].components, requires_safety_checker=False), []
    with pytest.raises(ValueError, match='must combine its predictions'), guided(own, cfg): draw(SD, own, kw, s)
    with pytest.raises(ValueError, match='must combine its predictions'), guided(pipe, spied(seen)):
        draw(SD, pipe, kw, s, callback_on_step_end=lambda p, i, ts, more: setattr(p, '_guidance_rescale', .7) or more)
    assert len(seen) == 1

def test_what_would_guide_again_is_refused_by_name():
    pipe, kw = family('ZImagePipeline')
    again = "`cfg_normalization` .* transform 'cfg_norm' instead; got True"
    with pytest.raises(ValueError, match=again), guided(pipe, cfg):
        draw('ZImagePipeline', pipe, kw, 3., cfg_normalization=True)
    pipe, kw = family('HunyuanVideo15Pipeline')
    pipe.guider = df.ClassifierFreeGuidance(guidance_scale=3., guidance_rescale=.7)
    with pytest.raises(ValueError, match="`guidance_rescale` of the pipeline's guider"), guided(pipe, cfg):
        pipe(**kw, num_inference_steps=2)

@pytest.mark.parametrize('pos_by, n', [('step', 8), ('sigma', 10)])
def test_denoising_end(pos_by, n):
    "A run that ends early makes 8 of 10 steps: by sigma it is a part of the whole run, by step it is all there is"
    pipe, kw, seen = *family(XL), []
    with guided(pipe, spied(seen), pos_by): draw(XL, pipe, kw, 3., 10, denoising_end=.8)
    assert [(int(s), s.n, len(s.sigmas)) for s in seen] == [(k, n, n) for k in range(8)]

def test_another_pipeline_or_loop_in_the_block(sd):
    "Only the pipeline of the block may step its scheduler, before its own call and after; its network is as outside"
    (pipe, kw), x, text = sd, torch.randn(2, 4, 8, 8), torch.randn(2, 6, 16)

    def another():
        df.StableDiffusionImg2ImgPipeline(**pipe.components,
                                          requires_safety_checker=False)('a ring', image=torch.rand(1, 3, 16, 16),
                                                                         strength=.5, num_inference_steps=4)
    def loop():
        s = pipe.scheduler
        s.set_timesteps(2)
        s.step(pipe.unet(x, s.timesteps[0], text).sample[:1], s.timesteps[0], x[:1])
    want, own = pipe.unet(x, 500, text).sample, draw(SD, pipe, kw, 5.)
    with guided(pipe, cfg) as host:
        for k in (1, 2):
            for f in (loop, another):
                with pytest.raises(ValueError, match='another pipeline or loop stepped this scheduler'): f()
            assert torch.equal(pipe.unet(x, 500, text).sample, want) and torch.equal(draw(SD, pipe, kw, 3.),
                                                                                     own) and host.calls == 4*k

def test_two_equal_images_at_scale_1(sd):
    "Two equal rows are not the two halves that DiT steps"
    gens = [torch.Generator().manual_seed(1) for _ in 'ab']
    with pytest.raises(ValueError, match='makes one prediction for each image'), guided(sd[0], cfg):
        sd[0](['a ring']*2, num_inference_steps=3, output_type='latent', generator=gens, guidance_scale=1.)

@pytest.mark.parametrize('shift', [1., 3.])
def test_a_network_is_told_another_time(shift):
    "PRX tells its network t/1000, which can be the timestep of another step: the scheduler's counts"
    pipe, kw, seen = *family('PRXPipeline'), []
    pipe.scheduler = df.FlowMatchEulerDiscreteScheduler(shift=shift)
    own = draw('PRXPipeline', pipe, kw, 5.)
    with guided(pipe, spied(seen)): assert torch.equal(draw('PRXPipeline', pipe, kw, 3.), own)
    assert [(int(s), s.n)
            for s in seen] == [(k, 4) for k in range(4)] and [s.timestep
                                                              for s in seen] == pipe.scheduler.timesteps.tolist()

@pytest.mark.parametrize('name, s, u, sign', [('ZImagePipeline', 4., 1, -1), (SD, 5., 0, 1)])
def test_equal_predictions_tell_the_sign_only(name, s, u, sign):
    "Where `u` is `t` from the start the sign is known, and which is which is found out in the next call; Z-Image's scale is one less"
    pipe, kw = family(name)
    same = kw | {k: kw[k.removeprefix('negative_')] for k in kw if k.startswith('negative_')}
    own = [draw(name, pipe, k, s) for k in (same, kw)]
    with guided(pipe, cfg) as host:
        with pytest.warns(UserWarning, match='guidance has no effect'): assert close(draw(name, pipe, same, 3.), own[0])
        assert (host.u, host.sign) == (None, sign)
        assert close(draw(name, pipe, kw, 3.), own[1]) and (host.u, host.sign) == (u, sign)

def clean(pipe, **own):
    doors = {k: v for k, v in vars(pipe.scheduler).items() if k in ('step', 'set_timesteps')}
    return not adapters.OPEN and type(pipe) is df.StableDiffusionPipeline and type(
        pipe.unet) is df.UNet2DConditionModel and doors == own

def test_a_method_of_ones_own_comes_back(sd):
    pipe, kw = sd
    step = pipe.scheduler.step
    pipe.scheduler.step = mine = functools.wraps(step)(lambda *args, **kwargs: step(*args, **kwargs))
    with guided(pipe, cfg): draw(SD, pipe, kw, 3.); assert pipe.scheduler.step is not mine
    assert clean(pipe, step=mine)

@pytest.mark.parametrize('error', [KeyboardInterrupt, ZeroDivisionError])
def test_an_error_leaves_nothing(sd, error):
    "Neither one of the transform nor one of a callback, after which the next call is as the first"
    (pipe, kw), own = sd, draw(SD, *sd, 5.)
    def fails(*args, **kwargs): raise error
    with pytest.raises(error), guided(pipe, fails): draw(SD, pipe, kw, 3.)
    assert clean(pipe)
    with guided(pipe, cfg):
        with pytest.raises(error): draw(SD, pipe, kw, 3., callback_on_step_end=fails)
        assert torch.equal(draw(SD, pipe, kw, 3.), own)
    assert clean(pipe)

def test_a_copy_is_of_the_plain_class():
    pipe = as_pipeline()
    conf = pipe.unet.config
    at = torch.randn(2, conf.in_channels, 8, 8), 500, torch.randn(2, 6, conf.cross_attention_dim)
    with guided(pipe, cfg):
        pipe('a red star', num_inference_steps=2, output_type='latent')
        copies = copy.deepcopy(pipe.unet), *[pickle.loads(pickle.dumps(pipe.unet, protocol)) for protocol in (2, 5)]
        for c in copies:
            assert type(c) is df.UNet2DConditionModel is not type(pipe.unet) and torch.equal(
                c(*at).sample,
                pipe.unet(*at).sample)
    assert clean(pipe)

@pytest.mark.parametrize('name', [k for k, f in RULES.items() if f.axis == 'channel'])
def test_channels_are_not_taken_for_tokens(name, sd):
    "(b, tokens, channels) has its channels last: a rule that takes them from dimension 1 is refused, and runs on (b, c, h, w)"
    with pytest.raises(ValueError, match=f'`tfm` {name} takes dimension 1'): hosted(FLUX, *family(FLUX), guidance(name))
    assert hosted(SD, *sd, guidance(name))[1].calls == 4

def test_channels_that_are_last():
    assert close(*[hosted(FLUX, *family(FLUX), f)[0] for f in (guidance('token_norm', g=5., dim='last'), by_token)])

def test_device_of_weights_that_are_elsewhere(sd):
    "Offloaded layer by layer the weights are on 'meta', where nothing can be computed"
    net = copy.deepcopy(sd[0].unet).to('meta')
    assert next(net.parameters()).is_meta and Pieces(None, None, None, net, None).device == torch.device('cpu')

def test_skip_layers_are_refused():
    pipe, kw = family('StableDiffusion3Pipeline')
    with pytest.raises(ValueError, match="`skip_guidance_layers` .* transform 'slg'"), guided(pipe, cfg):
        draw('StableDiffusion3Pipeline', pipe, kw, 3., skip_guidance_layers=[0])

@pytest.mark.parametrize('name, tfm, words', [('StableCascadePriorPipeline', 'rescale', 'does not say how to '
                                               'convert predictions'), ('StableDiffusionXLPipeline', 'icg', 'does not allow'),
                                              ('StableDiffusionGLIGENPipeline', 'pag', 'cannot tell which arguments'),
                                              ('TextToVideoZeroPipeline', 'cfg', 'must not copy its scheduler')])
def test_refusals(name, tfm, words):
    "What cannot be done is said, and not done otherwise"
    pipe, kw = family(name)
    with pytest.raises(ValueError, match=words), guided(pipe, guidance(tfm)): draw(name, pipe, kw, 3.)
