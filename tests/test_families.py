"""Every pipeline family of diffusers that can be made tiny, hosted by `guided`: to the bit, with a note, or refused and why.

To the bit means: the same passes in batches of the same rows, on one machine. In float32 all is tried;
in bfloat16 and float16 that the family is hosted, and that the transform's prediction is the pipeline's own mix.

    python tests/test_families.py      writes nbs/tutorials/families.json, the table of the docs, anew"""
import functools, inspect, json, sys, warnings
from pathlib import Path
import diffusers, pytest, torch
import cf_guidance.adapters.callbacks as callbacks
import families_image, families_unet, families_video
from cf_guidance.adapters import Host, guided, guidance_callback
from cf_guidance.transforms import guidance
from cf_guidance.adapters.mixing import unit
from cf_guidance.schedules import cogvideox_shipped, constant, linear
from cf_guidance.transforms import convert

FILE = Path(__file__).parent.parent/'nbs/tutorials/families.json'
KINDS = {'images, U-Net': families_unet, 'images, transformer': families_image, 'video, sound': families_video}
KNOWN = frozenset(callbacks.CALLBACKS)
FAMILIES = {name: (kind, m) for kind, m in KINDS.items() for name in m.FAMILIES}
FEW = [
    'StableDiffusionPipeline', 'StableDiffusionXLPipeline', 'StableDiffusion3Pipeline',
    'StableDiffusionControlNetPipeline', 'DiTPipeline', 'KandinskyV22Pipeline', 'FluxPipeline+true_cfg',
    'QwenImagePipeline', 'ZImagePipeline', 'Lumina2Pipeline', 'WanPipeline+two', 'StableVideoDiffusionPipeline',
    'StableDiffusionPAGPipeline', 'LTX2Pipeline', 'FluxPipeline'
]

def by_token(u, t, idx, most=None):
    "Guidance at 5, with the length that each token has in `t`"
    m = u + 5*(t - u)
    k = t.norm(dim=-1, keepdim=True)/m.norm(dim=-1, keepdim=True)
    return m*(k if most is None else k.clamp(max=most))

def three_channels(u, t, idx): return torch.cat([u[:, :3] + 5*(t - u)[:, :3], t[:, 3:]], 1)

OWN = {    # what a pipeline does besides, and the transform that is all of it
    'QwenImagePipeline': ('gives each token the length that it has in t', by_token),
    'LongCatImagePipeline': ('bounds the length of each token by that in t', lambda u, t, idx: by_token(u, t, idx, 1.)),
    'LuminaPipeline': ('guides three channels only', three_channels),
    'StableVideoDiffusionPipeline': ('has a scale for each frame, from 1 up: see frame_linear',
                                     guidance('frame_linear', g=5., first=1.)),
    'CogVideoXPipeline+dynamic': ('changes its scale on the way: see cogvideox_shipped',
                                  guidance('cfg', g=cogvideox_shipped(5.)))
}
for name in ('QwenImageImg2ImgPipeline', 'QwenImageControlNetPipeline', 'QwenImageEditPipeline',
             'NucleusMoEImagePipeline', 'Lumina2Pipeline'):
    OWN[name] = OWN['QwenImagePipeline']

def images(out):
    "What a pipeline returns, as one tensor"
    x = next((getattr(out, k)
              for k in ('images', 'frames', 'image_embeds', 'image_embeddings', 'audios', 'latents')
              if hasattr(out, k)), None)
    x = out[0] if x is None else x
    return torch.stack([torch.as_tensor(v) for v in x]) if isinstance(x, (list, tuple)) else torch.as_tensor(x)

def draw(name, pipe, kw, s=5., n=4, **more):
    key = FAMILIES[name][1].SCALE.get(name, 'guidance_scale')
    if key.isidentifier(): kw = {**kw, key: s}
    else: pipe.guider.guidance_scale = s
    if 'num_inference_steps' in inspect.signature(pipe.__call__).parameters: kw = {**kw, 'num_inference_steps': n}
    return images(pipe(**kw, generator=torch.Generator().manual_seed(3), **more))

def far(a, b): return 'bit' if torch.equal(a, b) else float((a - b).abs().max()/b.abs().max())

def close(a, b, tol=1e-5): return far(a, b) == 'bit' or far(a, b) < tol

def hosted(name, pipe, kw, tfm, **more):
    with guided(pipe, tfm) as host: return draw(name, pipe, kw, 3., **more), host

# these end on the image that the last prediction is
EXACT = 'FlowMatchEuler', 'EulerDiscrete', 'CogVideoX', 'DPMSolverMultistep', 'UniPC', 'EDMDPM'

def whole(name, pipe, kw, tfm, **more):
    "The same with no pass left out"
    class All:
        needs = staticmethod(lambda step: frozenset('ut'))
        def __call__(self, u, t, idx): return tfm(u, t, idx=idx)
    out, host = hosted(name, pipe, kw, All(), **more)
    assert not host.saved
    return out

def ends(name, pipe, kw):
    "Whether the space, and the shares of image and noise, are right: the last prediction is where the run ends"
    cls, last, took = type(pipe.scheduler), [], []
    own = cls.step
    def tfm(u, t, idx): last[:] = [idx, u + 2*(t - u)]; return last[1]
    @functools.wraps(own)
    def step(self, *args, **kwargs): took[:] = [own(self, *args, **kwargs)]; return took[0]
    cls.step = step
    try: hosted(name, pipe, kw, tfm)
    finally: cls.step = own
    if last[0].space is None or not cls.__name__.startswith(EXACT): return True
    out = took[0][0] if isinstance(took[0], tuple) else took[0].prev_sample
    return close(convert(last[1], last[0].space, 'sample', last[0].a, last[0].b, last[0].x), out[:len(last[1])], 1e-5)

WIDE = {'LucyEditPipeline': ['vae']}      # parts that stay in float32, as their pages say

def loaded(name, dtype):
    "A family in another precision, as `from_pretrained(..., torch_dtype=dtype)` gives it, and the arguments of its call"
    pipe, kw = FAMILIES[name][1].FAMILIES[name]()
    for k, part in pipe.components.items():
        if not isinstance(part, torch.nn.Module) or k in WIDE.get(name, ()): continue
        part.to(dtype)
        for n, m in part.named_modules():
            if n.rpartition('.')[2] in (getattr(part, '_keep_in_fp32_modules', None) or ()): m.float()
    cast = lambda v: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else type(v)(map(
        cast, v)) if isinstance(v, list) else v
    if '_encode_prompt' in vars(pipe): pipe._encode_prompt = lambda prompt, own=pipe._encode_prompt: cast(own(prompt))
    return pipe, {k: cast(v) if 'embed' in k or 'hidden' in k else v for k, v in kw.items()}

def mixes_alike(name, pipe, kw, tfm, s=5.):
    "At every step the transform makes of the two predictions what the pipeline does, called at its own scale, but for what the formula itself rounds"
    own, offs = Host._guide, []
    def _guide(self, made, got, m, *args):
        pred = own(self, made, got, m, *args)
        size = torch.stack([m.float().norm(), s*got['t'].float().norm(), s*got['u'].float().norm()]).norm()
        offs.append(((pred.float() - m.float()).norm()/(3*unit(m, made[0].out)*size)).item())
        return pred
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Host, '_guide', _guide)
        with guided(pipe, tfm): draw(name, pipe, kw, s)
    return max(offs) <= 1

def in_half(name, dtype, row):
    "What the table says of a family in half precision"
    try: pipe, kw = loaded(name, dtype); own = draw(name, pipe, kw)
    except (RuntimeError, TypeError) as e: return f'fails without a host: {e}'
    assert torch.isfinite(own).all()
    tfm = OWN[name][1] if row['result'] == 'own' else guidance('cfg', g=6. if row['scale'] == 's + 1' else 5.)
    out, host = hosted(name, pipe, kw, tfm)
    assert (host.u, host.sign) == ('ut'.index(row['first']), row['sign']) and mixes_alike(name, pipe, kw, tfm)
    _, host = hosted(name, pipe, kw, guidance('cfg', g=constant(5.).then(1, at=.5)))
    assert (host.saved > 0) == row['saves']
    return row['result'] if row['result'] == 'own' else 'bit' if torch.equal(out, own) else 'rounding'

def called(name, pipe, kw):
    "What a callback does in a pipeline"
    sched, cls = linear(6, 3), type(pipe).__name__
    want, host = hosted(name, pipe, kw, guidance('cfg', g=sched))
    callbacks.CALLBACKS.add(cls)
    try: out = draw(name, pipe, kw, 6., callback_on_step_end=guidance_callback(sched))
    except TypeError: return 'takes none'
    except Exception: return 'fails'
    finally: callbacks.CALLBACKS.intersection_update(KNOWN)
    return 'works' if torch.equal(
        out, want) else 'no effect' if torch.equal(out, draw(name, pipe, kw, 6.)) else 'another image'

HALVES = torch.bfloat16, torch.float16

def outcome(name, halves=HALVES):
    "A row of the table, for these kinds of half precision"
    kind, m = FAMILIES[name]
    row = dict(name=name, kind=kind)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        pipe, kw = m.FAMILIES[name]()
        own = draw(name, pipe, kw)
        try: same, host = hosted(name, pipe, kw, guidance('cfg', g=5.))
        except ValueError as e: return {**row, 'result': 'refused', 'why': str(e)}
        plus, _ = hosted(name, pipe, kw, guidance('cfg', g=6.))
        result, scale = ('bit', 's') if far(
            same, own) == 'bit' else ('rounding',
                                      's') if close(same, own) else ('rounding',
                                                                     's + 1') if close(plus, own) else ('own', 's')
        if result == 'own':
            why, tfm = OWN[name]
            row['note'] = why
            assert close(hosted(name, pipe, kw, tfm)[0], own, 1e-4), (name, far(hosted(name, pipe, kw, tfm)[0], own))
        window = guidance('cfg', g=constant(5.).then(1, at=.5))
        assert not close(draw(name, pipe, kw, 3.), own, .003)
        _, host = hosted(name, pipe, kw, window)
        for sched in (window, guidance('cfg', g=constant(5.).then(0, at=.5))):
            assert close(hosted(name, pipe, kw, sched)[0], whole(name, pipe, kw, sched))
        try: spaced = far(hosted(name, pipe, kw, guidance('rescale', g=5., phi=.7))[0], own) != 'bit'
        except ValueError: spaced = False
        assert ends(name, pipe, kw)
        # as it stands in the pipeline's source
        if (read := m.FORMULA[name]).endswith('first'):
            assert read == 'two calls '*(host.two == 'calls') + 'ut'[host.u] + ' first'
        row |= {
            'result': result, 'scale': scale, 'calls': 'two' if host.two == 'calls' else 'one', 'first': 'ut'[host.u],
            'sign': host.sign, 'saves': host.saved > 0, 'spaces': spaced, 'callback': called(name, pipe, kw)
        }
        return row | {str(d)[6:]: in_half(name, d, row) for d in halves}

ROWS = {r['name']: r for r in json.loads(FILE.read_text())} if FILE.exists() else {}

def test_the_table_is_whole(): assert set(ROWS) == set(FAMILIES)

@pytest.mark.parametrize('name', FAMILIES)
def test_family(name, every):
    "The family does what the table says"
    if not every and name not in FEW: pytest.skip('one of the heavier cases')
    halves = HALVES if every else HALVES[FEW.index(name) % 2:][:1]                # one of the two each
    left = {str(d)[6:] for d in HALVES if d not in halves}
    assert outcome(name, halves) == {k: v for k, v in ROWS[name].items() if k not in left}

def test_callbacks():
    "`guidance_callback` allows what the table says"
    assert KNOWN == {r['name'].partition('+')[0] for r in ROWS.values() if r.get('callback') == 'works'}

if __name__ == '__main__':
    diffusers.utils.logging.set_verbosity_error()
    only, rows = sys.argv[1:], dict(ROWS)
    for name in FAMILIES:
        if only and name not in only: continue
        rows[name] = outcome(name)
        print(rows[name], flush=True)
    FILE.write_text('[\n' + ',\n'.join(json.dumps(rows[n]) for n in FAMILIES) + '\n]\n')
