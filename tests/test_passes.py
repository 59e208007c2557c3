"Passes that disturb a network: every kind of attention as the plain one, or refused before anything is paid; compiled networks; threads"
import copy, threading, warnings
import diffusers as df, pytest, torch
from diffusers.models.attention_processor import AttnProcessor, SlicedAttnProcessor, XFormersAttnProcessor
from cf_guidance.adapters import guided, ScheduledGuider
from cf_guidance.transforms import guidance
from cf_guidance.transforms.attention import SmoothedAttention
from cf_guidance.transforms.layers import is_attention, named_layers
from cf_guidance.pieces import get_sd_pieces
from cf_guidance.sampling import sample_latents
from modular import HOSTS
from test_families import FAMILIES, close, draw

SD, ANIMATED = 'StableDiffusionPipeline', 'AnimateDiffPipeline'

def family(name): return FAMILIES[name][1].FAMILIES[name]()

def network(pipe): return getattr(pipe, 'unet', None) or pipe.transformer

def made(name, pipe, kw, rule, **params):
    with guided(pipe, guidance(rule, g=5., **params)): return draw(name, pipe, kw, 3.)

def attention(processor):
    def change(pipe):
        for m in named_layers(pipe.unet, is_attention, 'all'): m.processor = processor
    return change

def compiled(pipe): pipe.unet = torch.compile(pipe.unet, backend='eager')
def regional(pipe):
    for m in pipe.unet.modules():
        if type(m).__name__ == 'BasicTransformerBlock': m.compile(backend='eager')
def in_place(pipe): pipe.unet.compile(backend='eager')

KINDS = {
    'older': attention(AttnProcessor()), 'sliced': attention(SlicedAttnProcessor(2)),
    'fused': lambda pipe: pipe.fuse_qkv_projections(), 'compiled': compiled, 'regional': regional, 'in place': in_place
}

ONE = {'compiled': 'pag', 'regional': 'seg', 'in place': 'slg'}      # of those that take long

def usual():
    pipe, kw = family(SD)
    pipe.unet.set_attn_processor(df.models.attention_processor.AttnProcessor2_0())
    return pipe, kw

@pytest.fixture(scope='module')
def disturbed():
    "What three rules make of the plain network, each far from what guidance alone does"
    pipe, kw = usual()
    want = {rule: made(SD, pipe, kw, rule, s=3., layers='all') for rule in ('pag', 'seg', 'slg')}
    plain = made(SD, pipe, kw, 'cfg')
    assert not any(close(out, plain, 1e-3) for out in want.values())
    return want

@pytest.mark.parametrize('kind', KINDS)
def test_as_the_plain_network(kind, disturbed, every):
    if kind == 'in place' and not every: pytest.skip('one of the heavier cases')
    pipe, kw = usual()
    KINDS[kind](pipe)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        for rule, out in disturbed.items():
            if not every and rule != ONE.get(kind, rule): continue
            assert close(made(SD, pipe, kw, rule, s=3., layers='all'), out, 1e-4), rule
        made(SD, pipe, kw, 'pag', s=3.)                                   # the default, `layers='mid'`, is found
    torch._dynamo.reset()

@pytest.mark.parametrize('name',
                         ['IFPipeline', 'KandinskyV22Pipeline', 'StableDiffusion3Pipeline', 'xformers', 'its own'])
@pytest.mark.parametrize('rule', ['pag', 'seg'])
def test_refused_before_anything_is_paid(name, rule):
    "Attention with added keys or joined with the text, and processors in which there is nothing to change"
    class ItsOwn:
        def __call__(self, attn, x, *args, **kwargs): return attn.to_out[0](x)
    pipe, kw = family(name if name in FAMILIES else SD)
    if name not in FAMILIES: attention(XFormersAttnProcessor() if name == 'xformers' else ItsOwn())(pipe)
    # its queries are blurred as any
    if (name, rule) == ('xformers', 'seg'): return SmoothedAttention('all').check(pipe.unet)
    paid = []
    network(pipe).register_forward_hook(lambda *args: paid.append(1))
    with pytest.raises(ValueError, match='`layers` must be'): made(name if name in FAMILIES else SD, pipe, kw, rule)
    assert not paid

def test_guiders_refuse_before_anything_is_paid():
    pipe, kw = HOSTS['sd3']()
    pipe.update_components(guider=ScheduledGuider(guidance('pag'), pipe))
    paid = []
    pipe.transformer.register_forward_hook(lambda *args: paid.append(1))
    with pytest.raises(ValueError, match='`layers` must be'): pipe(**kw, generator=torch.Generator().manual_seed(0))
    assert not paid

def test_own_loop_refuses_before_anything_is_paid():
    pieces, paid = get_sd_pieces(device='cpu'), []
    pieces = pieces._replace(unet=copy.deepcopy(pieces.unet))
    pieces.unet.register_forward_hook(lambda *args: paid.append(1))
    with pytest.raises(ValueError, match='`layers` must be among'):
        sample_latents('a red cone', guidance('pag', layers='middle'), pieces, seeds=[1], steps=2, progress=False)
    assert not paid

def test_attention_along_time_is_not_blurred():
    "16 frames are no plane of 4 x 4"
    pipe, kw = family(ANIMATED)
    names, every = {m: k for k, m in pipe.unet.named_modules()}, named_layers(pipe.unet, is_attention, 'all')
    assert set(SmoothedAttention('all')._found(
        pipe.unet)) == {m
                        for m in every
                        if 'motion_modules' not in names[m].split('.')} < set(every)
    assert not close(made(ANIMATED, pipe, kw, 'seg', s=3., layers='all'), made(ANIMATED, pipe, kw, 'cfg'), 1e-4)

@pytest.mark.heavy
def test_guiders_and_a_compiled_network():
    "The third pass of a guider disturbs a compiled network as the plain one"
    pipe, kw = HOSTS['sdxl']()
    def run(tfm):
        pipe.update_components(guider=ScheduledGuider(tfm, pipe))
        return pipe(**kw, generator=torch.Generator().manual_seed(0))
    plain, want, net = run(guidance('cfg', g=5.)), run(guidance('pag', g=5., layers='all')), pipe.unet
    pipe.unet = torch.compile(net, backend='eager')
    assert close(run(guidance('pag', g=5., layers='all')), want, 1e-4) and not close(want, plain, 1e-3)
    torch._dynamo.reset()

def test_two_threads_share_a_network():
    "A run that disturbs the network, and one that does not, at the same time: each is as it is alone"
    pieces = get_sd_pieces(device='cpu')
    jobs = {
        'cfg': {}, 'pag': dict(s=3., layers='all'), 'seg': dict(s=3., layers='all'), 'slg': dict(s=3., layers='all')
    }
    alone = lambda name: sample_latents('a red cone', guidance(name, g=5., **jobs[name]), pieces, seeds=[1], steps=4,
                                        progress=False)
    want, outs = {name: alone(name) for name in jobs}, {}
    threads = [threading.Thread(target=lambda name=name: outs.__setitem__(name, alone(name))) for name in jobs]
    for th in threads: th.start()
    for th in threads: th.join()
    assert outs.keys() == want.keys() and all(torch.equal(outs[k], want[k]) for k in want)
    assert not any('forward' in vars(m) for m in pieces.unet.modules())

# NAG: the negative prompt inside the pass for `t`
def by_two_rows(net, layers, calls, scale, tau, alpha):
    "The same by a doubled batch, whose image tokens are made equal in each layer that reads text"
    def mixed(m, args):
        to, away = args[0].chunk(2)
        far = to + (scale - 1)*(to - away)
        ratio = far.norm(p=1, dim=-1, keepdim=True)/to.norm(p=1, dim=-1, keepdim=True)
        return torch.cat([alpha*far*ratio.clamp(max=tau)/ratio + (1 - alpha)*to]*2)
    hooks = [m.to_out[0].register_forward_pre_hook(mixed) for k, m in net.named_modules() if k.endswith(layers)]
    assert hooks
    with torch.no_grad(): out = net(**calls)[0]
    for h in hooks: h.remove()
    return out.chunk(2)[0]

NAG = {'StableDiffusionXLPipeline': 'attn2', 'StableDiffusion3Pipeline': '.attn'}

@pytest.mark.parametrize('name', NAG)
def test_nag(name):
    "The pass by attention in a U-Net and in joint attention: as a computation by hand, and counted"
    (pipe, kw), seen, rows = family(name), [], []
    net, tfm = network(pipe), guidance('nag', g=1., scale=4., tau=1.5, alpha=.4)
    class Seen:
        how, needs = tfm.how, tfm.needs
        def __call__(self, u, t, idx): seen.append(t.clone()); return t
    def note(m, args, kwargs): rows.append((args, kwargs))
    hook = net.register_forward_pre_hook(note, with_kwargs=True)
    with guided(pipe, Seen()) as host: draw(name, pipe, kw, 3.)
    hook.remove()
    # both halves once, where the host learns which is which; then no row more than images
    first, n = rows[0], len(seen[0])
    assert (host.made, host.saved) == (2*n + 4*n, 3*n) and len(rows) == 5
    given = {k: v for k, v in first[1].items() if v is not None} | dict(return_dict=False)
    for k, v in zip(('sample', 'timestep'), first[0]): given[k] = v
    twice = lambda v: torch.cat([v.chunk(2)[1]]*2) if isinstance(v, torch.Tensor) and v.ndim else v
    text = given.pop('encoder_hidden_states')
    given = {k: {j: twice(w) for j, w in v.items()} if isinstance(v, dict) else twice(v) for k, v in given.items()}
    away, to = text.chunk(2)
    given['encoder_hidden_states'] = torch.cat([to, away])
    want = by_two_rows(net, NAG[name], given, 4., 1.5, .4)
    assert close(seen[0], want, 1e-4)
    plain, guided_ = [made_by(pipe, name, kw, guidance('nag', g=3., **p)) for p in (dict(scale=1.), {})]
    assert close(plain, made_by(pipe, name, kw, guidance('cfg', g=3.))) and not close(plain, guided_, 1e-3)

def made_by(pipe, name, kw, tfm):
    with guided(pipe, tfm): return draw(name, pipe, kw, 3.)

@pytest.mark.parametrize('name, why', [('FluxPipeline+true_cfg', 'FluxTransformer2DModel has neither'),
                                       ('PixArtSigmaPipeline', 'a mask of the tokens')])
def test_nag_is_refused(name, why):
    pipe, kw = family(name)
    with pytest.raises(ValueError, match=why), guided(pipe, guidance('nag', g=1.)): draw(name, pipe, kw, 3.)
