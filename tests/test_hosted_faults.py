"Caches that keep something from call to call, half precision, and numbers that are not finite, in pipelines that `guided` hosts"
import types
import diffusers as df, pytest, torch
from diffusers import hooks
from diffusers.models.attention_processor import AttnProcessor2_0
from cf_guidance.adapters import guided, guidance_callback, ScheduledGuider
from cf_guidance.transforms import guidance
from modular import HOSTS
from test_families import FAMILIES, draw, loaded, whole

SD, FLUX, WAN = 'StableDiffusionPipeline', 'FluxPipeline+true_cfg', 'WanPipeline'
early = guidance('cfg', g=[1., 1., 5., 5., 5., 5., 1., 5.])

def family(name): return FAMILIES[name][1].FAMILIES[name]()

# Caches

def mag():
    return hooks.MagCacheConfig(threshold=.3, max_skip_steps=2, retention_ratio=.2, num_inference_steps=8,
                                mag_ratios=[1., 1.02, 1.03, .9, .97, 1.2, .98, 1.01])

def taylor():
    return hooks.TaylorSeerCacheConfig(cache_interval=3, disable_cache_before_step=1, max_order=1,
                                       taylor_factors_dtype=torch.float32)
def first(): return hooks.FirstBlockCacheConfig(threshold=.5)
def sea(): return hooks.SeaCacheConfig(threshold=.9)
def broadcast():
    kinds = {
        f'{k}_attention_{v}': n
        for k in ('spatial', 'temporal', 'cross')
        for v, n in (('block_skip_range', 2), ('timestep_skip_range', (-1, 1001)))
    }
    return hooks.PyramidAttentionBroadcastConfig(**kinds, current_timestep_callback=lambda: 500)
def faster():
    return hooks.FasterCacheConfig(spatial_attention_block_skip_range=2,
                                   spatial_attention_timestep_skip_range=(-1, 1001), unconditional_batch_skip_range=2,
                                   unconditional_batch_timestep_skip_range=(-1, 1001),
                                   attention_weight_callback=lambda m: .5, tensor_format='BCFHW',
                                   current_timestep_callback=lambda: 500)

FEW = [(FLUX, mag), (FLUX, taylor), (FLUX, first), (WAN, sea), ('NucleusMoEImagePipeline', hooks.TextKVCacheConfig),
       ('LTXPipeline', broadcast), ('CogVideoXPipeline', faster)]
CACHES = [
    *FEW, (FLUX, broadcast), ('QwenImagePipeline', mag), ('QwenImagePipeline', first), (WAN, broadcast), (WAN, faster),
    ('CogView4Pipeline', mag), ('LTXPipeline', mag)
]
APPLY = {
    hooks.MagCacheConfig: hooks.apply_mag_cache, hooks.TaylorSeerCacheConfig: hooks.apply_taylorseer_cache,
    hooks.FirstBlockCacheConfig: hooks.apply_first_block_cache,
    hooks.PyramidAttentionBroadcastConfig: hooks.apply_pyramid_attention_broadcast,
    hooks.FasterCacheConfig: hooks.apply_faster_cache
}

def run(name, change, how=guided, tfm=early):
    pipe, kw = family(name)
    change(pipe)
    if how is whole: return whole(name, pipe, kw, tfm, n=8)
    with guided(pipe, tfm) as host: return draw(name, pipe, kw, 3., 8), host

def enabled(config): return lambda pipe: pipe.transformer.enable_cache(config())
def applied(config): return lambda pipe: APPLY[type(c := config())](pipe.transformer, c)

@pytest.mark.parametrize('name, config', CACHES)
def test_no_pass_is_left_out_where_a_cache_keeps_something(name, config, every):
    "Neither in one batch nor in two calls, by whatever way the cache came there: the image is that of the run that makes every pass, to the bit"
    if not every and (name, config) not in FEW: pytest.skip('one of the heavier cases')
    for change in [enabled(config)] + [applied(config)]*(type(config()) in APPLY):
        out, host = run(name, change)
        assert host.saved == 0 and torch.equal(out, run(name, change, whole))
    assert run(name, lambda pipe: None)[1].saved > 0

class Counts(AttnProcessor2_0):
    "Attention that counts its calls, as that of prompt-to-prompt does"
    n = 0
    def __call__(self, *args, **kwargs): self.n += 1; return super().__call__(*args, **kwargs)*(1 + self.n % 3)

def counting_forward(pipe):
    "A `forward` in the place of the network's own, as TeaCache and DeepCache have it"
    own, n = pipe.transformer.forward, []
    def forward(*args, **kwargs): n.append(0); out = own(*args, **kwargs); return (out[0]*(1 + .1*(len(n) % 3)),)
    pipe.transformer.forward = forward

def counting_block(pipe):
    block = next(m for k, m in pipe.transformer.named_modules() if k.endswith('.0') and 'block' in k)
    own, n = block.forward, []

    def forward(self, *args, **kwargs):
        n.append(0)
        out = own(*args, **kwargs)
        return tuple(v*(1 + .1*(len(n) % 3)) for v in out) if isinstance(out, tuple) else out*(1 + .1*(len(n) % 3))
    block.forward = types.MethodType(forward, block)

def counting_class(pipe):
    cls = type(pipe.transformer)
    own, n = cls.forward, []

    def teacache_forward(self, *args, **kwargs):
        n.append(0)
        out = own(self, *args, **kwargs)
        return (out[0]*(1 + .1*(len(n) % 3)), )
    pipe.transformer.__class__ = type(cls.__name__, (cls,), {'forward': teacache_forward})

@pytest.mark.parametrize('name', [FLUX, 'CogVideoXPipeline'])
@pytest.mark.parametrize('change', [counting_forward, counting_block, counting_class])
def test_what_is_put_in_the_place_of_forward_may_count(name, change):
    out, host = run(name, change)
    assert host.saved == 0 and torch.equal(out, run(name, change, whole))

def test_attention_of_ones_own_may_count():
    change = lambda pipe: pipe.unet.set_attn_processor(Counts())
    out, host = run(SD, change)
    assert host.saved == 0 and torch.equal(out, run(SD, change, whole))

def test_what_keeps_nothing_leaves_passes_out():
    "Layers that are cast as they run, a compiled network, and a hook that only looks"
    def cast(pipe):
        hooks.apply_layerwise_casting(pipe.transformer, storage_dtype=torch.bfloat16, compute_dtype=torch.float32,
                                      skip_modules_pattern=['time', 'norm'])

    def looks(pipe):
        hooks.HookRegistry.check_if_exists_or_initialize(pipe.transformer).register_hook(hooks.ModelHook(), 'looks')
    def compiled(pipe): pipe.transformer = torch.compile(pipe.transformer, backend='eager')
    for change in (cast, looks, compiled): assert run(FLUX, change)[1].saved > 0

@pytest.mark.parametrize('config', [mag, broadcast])
def test_one_more_call_is_refused_where_a_cache_counts(config):
    with pytest.raises(ValueError, match='by one more call of the network, which would disturb the cache'):
        run(FLUX, enabled(config), tfm=guidance('icg', g=3., draw='noise'))

def test_guiders_make_every_pass_where_a_cache_counts():
    "In Modular Diffusers, too: a window of guidance moves no cache"
    def passes(config, window):
        pipe, kw = HOSTS['wan']()
        if config: pipe.transformer.enable_cache(config())
        g = [1., 1., 5., 5., 5., 1.] if window else [1 + 1e-12, 1 + 1e-12, 5., 5., 5., 1 + 1e-12]
        pipe.update_components(guider=ScheduledGuider(guidance('cfg', g=g)))
        n = []
        pipe.transformer.register_forward_pre_hook(lambda *_: n.append(0))
        return len(n), pipe(**kw, generator=torch.Generator().manual_seed(0)), n
    for config, want in ((None, 9), (taylor, 12)):
        _, x, n = passes(config, True)
        assert len(n) == want
    torch.testing.assert_close(x, passes(taylor, False)[1], rtol=0, atol=1e-5)

# Half precision

class Rescaled(df.StableDiffusionPipeline):
    "A pipeline that rescales by a variable of its own"
    def __call__(self, *args, **kwargs): return super().__call__(*args, guidance_rescale=.7, **kwargs)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('s', [3., 7., 15.])
def test_rescaled_out_of_sight_in_half_precision(dtype, s):
    pipe, kw = loaded(SD, dtype)
    own = Rescaled(**pipe.components, requires_safety_checker=False)
    with pytest.raises(ValueError, match='must combine its predictions'), guided(own, guidance('cfg')):
        draw(SD, own, kw, s)

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('by', [.9, 1.1])
def test_lengths_that_are_not_those_of_t(dtype, by):
    "Qwen-Image with tokens that are longer or shorter than in `t` does more than guidance"
    name = 'QwenImagePipeline'
    pipe, kw = loaded(name, dtype)
    with guided(pipe, guidance('cfg')):
        door = pipe.scheduler.step
        pipe.scheduler.step = lambda m, *args, **kwargs: door(m*by, *args, **kwargs)
        with pytest.raises(ValueError, match='must combine its predictions'): draw(name, pipe, kw, 3.)

@pytest.mark.parametrize('s', [1.2, 1.5, 3., 7.5, 20.])
@pytest.mark.parametrize('name', [
    'QwenImagePipeline', 'Lumina2Pipeline', 'Kandinsky3Pipeline', 'StableVideoDiffusionPipeline', 'LongCatImagePipeline'
])
def test_every_scale_in_half_precision(name, s, every):
    if not every and s not in (1.5, 7.5): pytest.skip('one of the heavier cases')
    for dtype in (torch.bfloat16, torch.float16):
        pipe, kw = loaded(name, dtype)
        with guided(pipe, guidance('cfg', g=5.)) as host: draw(name, pipe, kw, s)
        assert 'ut'[host.u] == ('t' if 'QwenImage' in name or 'Lumina' in name or 'LongCat' in name else 'u')

# Not finite

ZERO = dict(rescale_betas_zero_snr=True, timestep_spacing='trailing')
def zero(pipe, cls=df.DDIMScheduler, **kw): pipe.scheduler = cls.from_config(pipe.scheduler.config, **ZERO | kw)

def broken(net, at, put, row=slice(None)):
    "At its call `at`, a network says `put` in some numbers of these rows"
    own, n = net.forward, []
    def forward(*args, **kwargs):
        out, x = own(*args, **kwargs), None
        n.append(0)
        if len(n) == at + 1: x = out[0].clone(); x[row, ..., 0] = put
        return out if x is None else (x,) if isinstance(out, tuple) else type(out)(x)
    net.forward = forward

def says(name, pipe, kw, words, tfm=guidance('cfg', g=5.), s=3., **more):
    with pytest.raises(ValueError) as e, guided(pipe, tfm): draw(name, pipe, kw, s, **more)
    assert all(w in str(e.value) for w in words) and 'does more' not in str(e.value), str(e.value)

def test_no_image_in_the_noise():
    "A prediction of the noise at zero terminal SNR: the sampler divides by zero, with guidance or without"
    pipe, kw = family(SD)
    zero(pipe, clip_sample=False)
    assert not torch.isfinite(draw(SD, pipe, kw, 5.)).all()
    says(SD, pipe, kw,
         ['`x` is not finite at step 0 of 4', 'DDIMScheduler computes it', 'zero terminal SNR', 'v_prediction'])

def test_a_sampler_that_clips_is_finite_as_ever():
    "There the image is the pipeline's own, to the bit; so it is with v"
    for more in (dict(clip_sample=True), dict(clip_sample=False, prediction_type='v_prediction')):
        pipe, kw = family(SD)
        zero(pipe, **more)
        own = draw(SD, pipe, kw, 5.)
        assert torch.isfinite(own).all()
        with guided(pipe, guidance('cfg', g=5.)): assert torch.equal(draw(SD, pipe, kw, 3.), own)

@pytest.mark.parametrize('put', [torch.nan, torch.inf])
@pytest.mark.parametrize('row, name', [(slice(0, 2), 'u'), (slice(2, 4), 't')])
@pytest.mark.parametrize('at', [0, 2])
def test_a_prediction_in_one_batch(put, row, name, at):
    pipe, kw = family(SD)
    broken(pipe.unet, at, put, row)
    says(SD, pipe, kw, [
        f'`{name}` is not finite at step {at} of 4',
        'UNet2DConditionModel computes it, in torch.float32, from finite inputs'
    ])

@pytest.mark.parametrize('name, place', [('t', 0), ('u', 1)])
def test_a_prediction_in_two_calls(name, place):
    pipe, kw = family(FLUX)
    broken(pipe.transformer, 2 + place, torch.nan)
    says(FLUX, pipe, kw, [f'`{name}` is not finite at step 1 of 4', 'FluxTransformer2DModel computes it'])

def test_a_half_that_is_all_nan():
    "Before the order is known, what is not finite has a place and no name"
    pipe, kw = family(SD)
    own = pipe.unet.forward
    def forward(*args, **kwargs): out = own(*args, **kwargs)[0].clone(); out[:2] = torch.nan; return (out,)
    pipe.unet.forward = forward
    says(SD, pipe, kw, ['`the first prediction` is not finite at step 0 of 4'])

def test_embeddings_with_a_hole():
    pipe, kw = family(FLUX)
    kw['negative_prompt_embeds'][0, 1, 2] = torch.nan
    says(FLUX, pipe, kw, [
        '`encoder_hidden_states` is not finite at step 0 of 4, counted from 0, 1 NaN',
        'the pipeline gives it to FluxTransformer2DModel'
    ])

def test_what_no_step_reads_may_be_anything():
    "From the third step on `u` is NaN, and only `t` is read"
    pipe, kw = family(FLUX)
    tfm = guidance('cfg', g=[5., 5., 1., 1.])
    with guided(pipe, tfm): want = draw(FLUX, pipe, kw, 3.)
    class All:
        needs = staticmethod(lambda step: frozenset('ut'))
        def __call__(self, u, t, idx): return tfm(u, t, idx=idx)
    own, n = pipe.transformer.forward, []
    def forward(*args, **kwargs):
        n.append(0)
        out = own(*args, **kwargs)[0]
        return (out*torch.nan if len(n) > 4 and len(n) % 2 == 0 else out,)
    pipe.transformer.forward = forward
    for f in (tfm, All()):
        n.clear()
        with guided(pipe, f): assert torch.equal(draw(FLUX, pipe, kw, 3.), want)

def test_what_the_transform_makes():
    pipe, kw = family(SD)
    says(SD, pipe, kw, ['`the guided prediction` is not finite at step 2 of 4', 'from finite predictions'],
         lambda u, t, idx: t*(torch.inf if idx == 2 else 1))

def test_a_weak_prediction():
    pipe, kw = family(SD)
    broken(pipe.unet, 1, torch.nan)
    says(SD, pipe, kw, ['`weak` is not finite at step 0 of 4'], guidance('pag', g=4., s=2., layers='all'))

def test_latents_at_the_beginning_and_on_the_way():
    pipe, kw = family(SD)
    x = torch.randn(2, 4, 8, 8); x[1, 2, 3, 4] = torch.inf
    says(SD, pipe, kw, ['`x` is not finite at step 0 of 4', '1 infinite of 512 numbers', 'the run starts from it'],
         latents=x)
    def spoils(pipe, i, ts, more): return dict(latents=more['latents']*(torch.nan if i == 1 else 1))
    says(SD, pipe, kw, ['`x` is not finite at step 2 of 4', 'the pipeline or a callback changed it after'],
         callback_on_step_end=spoils)

def test_float16_that_overflows():
    pipe, kw = loaded(SD, torch.float16)
    broken(pipe.unet, 1, torch.inf, slice(2, 4))
    says(SD, pipe, kw, ['`t` is not finite at step 1', 'float16 ends at 65504'])

def test_a_mix_that_overflows_is_not_used():
    "The pipeline's own scale is too much for float16, the transform's is not"
    pipe, kw = loaded(SD, torch.float16)
    own = draw(SD, pipe, kw, 5.)
    with guided(pipe, guidance('cfg', g=5.)): assert torch.equal(draw(SD, pipe, kw, 60000.), own)

def test_a_callback_says_it_too():
    pipe, kw = family(SD)
    zero(pipe, clip_sample=False)
    with pytest.raises(
            ValueError, match=
            '`latents` is not finite at step 0 of 4, .*DDIMScheduler computes them from a prediction at guidance scale 5; '
            'there .x. is pure noise'
    ):
        draw(SD, pipe, kw, 5., callback_on_step_end=guidance_callback(5.))

@pytest.mark.parametrize('host', ['sdxl', 'wan'])
def test_a_guider_says_it_too(host):
    pipe, kw = HOSTS[host]()
    net = pipe.unet if host == 'sdxl' else pipe.transformer
    broken(net, 4, torch.nan)
    pipe.update_components(guider=ScheduledGuider(guidance('cfg', g=5.)))
    with pytest.raises(
            ValueError, match=
            f'`t` is not finite at step 2 of 6, .*{type(net).__name__} computes it, in torch.float32, from finite '
            'latents'
    ):
        pipe(**kw)
