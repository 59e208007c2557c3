"A sweep of any pipeline: what is shared is what is made alone, to the bit; folders, resumes, reruns, and faults"
import csv, functools, json, random, threading, time, warnings
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
import families_image, families_unet, families_video
from cf_guidance.adapters import as_pipeline
from cf_guidance.pieces import SAMPLERS
from cf_guidance.records import rerun
from cf_guidance.sampling import built_in
from cf_guidance.schedules import constant, cosine
from cf_guidance.sweeps import Sweep

ROOT = Path(__file__).parent.parent
MAKERS = {k: f for m in (families_unet, families_image, families_video) for k, f in m.FAMILIES.items()}
FEW = ('StableDiffusionXLPipeline', 'StableDiffusion3Pipeline', 'FluxPipeline+true_cfg', 'QwenImagePipeline',
       'PixArtSigmaPipeline', 'KandinskyV22Pipeline', 'WanPipeline', 'StableDiffusionXLImg2ImgPipeline',
       'StableDiffusionXLInpaintPipeline', 'StableDiffusionXLControlNetPipeline')
OURS = {'prompt', 'negative_prompt', 'generator', 'num_inference_steps', 'output_type', 'return_dict',
        'num_images_per_prompt'}
SCHEDULES = [3., constant(3.).cutoff(.5), cosine(5., 1.), [3.]*4]

def one_row(x, name=''):
    "The first of two, where an argument of the families has one for each of two images"
    if 'llama3' in name: return x[:, :1]                           # layers come first
    if isinstance(x, list): return [one_row(v) for v in x[:1]] if len(x) < 3 else x
    rows = isinstance(x, torch.Tensor) and x.ndim > 0
    return x[:1] if rows and len(x) == 2 else x

def paella(pipe):
    "The decoder of Würstchen's kind, tiny"
    from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
    torch.manual_seed(0)
    pipe.register_modules(vqgan=PaellaVQModel(levels=2, bottleneck_blocks=1, embed_dim=8, latent_channels=4,
                                              num_vq_embeddings=8).eval().requires_grad_(False))
COMPLETE = dict(AllegroPipeline=lambda pipe: pipe.vae.enable_tiling(), StableCascadeDecoderPipeline=paella,
                WuerstchenDecoderPipeline=paella)      # what it takes to end with an image

def told(name):
    "A tiny pipeline, what its call is told for one image, and two prompts"
    pipe, args = MAKERS[name]()
    COMPLETE.get(name, lambda pipe: None)(pipe)
    texts = args.get('prompt') or ['a red circle']
    texts = texts if isinstance(texts, list) else [texts]
    return pipe, {k: one_row(v, k) for k, v in args.items() if k not in OURS}, texts

def pixels(cell): return np.asarray(cell.image)

def quiet(f, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return f(*args, **kwargs)

@pytest.mark.parametrize('name', FEW)
def test_sweep(name, tmp_path, every):
    "2 prompts, 2 seeds, 4 schedules, 2 transforms; equal schedules are one image"
    if not every and name in FEW[-3:-2] + FEW[-1:]: pytest.skip('one of the heavier cases')
    pipe, call, texts = told(name)
    steps = 5 if 'strength' in call or 'image' in call else 4
    scheds = SCHEDULES[:3] + ([SCHEDULES[3]] if steps == 4 else [constant(3.)])
    transform = ['cfg', 'apg'] if name != 'WanPipeline' else ['cfg', 'cfg_zero']
    def sweep(schedule=scheds, prompt=texts[:2], seed=(1, 2), transform=transform):
        return Sweep(pipe, prompt=prompt, schedule=schedule, transform=transform, seed=list(seed), steps=steps,
                     call=call)
    s = quiet(sweep().run, tmp_path, progress=False, exact=True)
    assert not [c.failed for c in s.cells if c.failed] and s.saved > 0
    assert len({c.file for c in s.cells}) == len(s.cells)*3//4
    assert (tmp_path/'index.html').is_file()
    assert (tmp_path/'metadata.jsonl').read_text().count('\n') == len(s.cells)*3//4
    for k in (0, 5, len(s.cells) - 2):
        p, c = s.places[k], s.cells[k]
        lone = quiet(sweep([s.values['schedule'][p['schedule']]], [p['prompt']], [p['seed']], [p['transform']]).run,
                     progress=False, exact=True)
        assert np.array_equal(pixels(lone.cells[0]), pixels(c)), p
    assert quiet(sweep().run, tmp_path, progress=False, exact=True).made == 0
    again = s.cells[-2].file
    assert np.array_equal(np.asarray(quiet(rerun, again, pipe, progress=False)), np.asarray(Image.open(again)))

TUTORIALS = ROOT/'nbs/tutorials'
with open(TUTORIALS/'not_swept.csv', newline='') as f:
    LEFT = {r['name']: r['says'] for r in csv.DictReader(f)}    # what is hosted and yet not swept, and what is said
TABLE = {r['name']: r['result'] for r in json.loads((TUTORIALS/'families.json').read_text())}

@pytest.mark.parametrize('name', list(MAKERS))
def test_every_family(name, request):
    "What the table of hosts says is hosted is swept, and each image is the one made alone; nothing else is"
    if not request.config.getoption('--all') and name not in FEW[:2]: pytest.skip('with --all')
    pipe, call, texts = told(name)
    def swept(schedule):
        sweep = Sweep(pipe, prompt=texts[:1], schedule=schedule, steps=4, seed=1, call=call)
        return quiet(sweep.run, progress=False, exact=True).cells
    if TABLE[name] == 'refused' or name in LEFT:
        said = refusal(swept)
        assert LEFT.get(name, '') in said and len(said) > 20, said
        return
    for c in swept([3., constant(3.).cutoff(.5)]):
        assert c.failed is None and np.array_equal(pixels(swept([c.run.tfm.schedules['g']])[0]), pixels(c))

def refusal(swept):
    "What is said where nothing is made"
    try: cells = swept([3.])
    except ValueError as e: return str(e)
    assert all(c.failed for c in cells)
    return str(cells[0].failed)

@pytest.mark.parametrize('name', SAMPLERS)
@pytest.mark.parametrize('rule', ['cfg', 'apg', 'rescale', 'cfg_zero', 'slg', 'dynamic_threshold'])
def test_both_engines(name, rule, request):
    "Our own loop and the pipeline make one image of a model in Stable Diffusion's layout, but for rounding"
    if not request.config.getoption('--all') and (name, rule) not in (('ddim', 'cfg'), ('heun', 'apg'), ('lms', 'slg')):
        pytest.skip('with --all')
    how = dict(prompt='a red cone', transform=rule, schedule=[4., cosine(6., 1.)], sampler=name, steps=4, seed=1)
    ours, theirs = [quiet(Sweep(m, **how).run, progress=False, exact=True).cells for m in (built_in(), as_pipeline())]
    for a, b in zip(ours, theirs):
        assert np.abs(np.asarray(a.image, int) - np.asarray(b.image, int)).max() <= 1, (name, rule)

def told_xl(name='StableDiffusionXLPipeline'):
    "A tiny pipeline of SDXL's, and a sweep of it by what differs"
    pipe, call, _ = told(name)
    def sweep(**more):
        how = dict(prompt='a red circle', schedule=[3., constant(3.).cutoff(.5)], steps=4, seed=1, call=call)
        return Sweep(pipe, **{**how, **more})
    return pipe, call, sweep

def swept(sweep, folder=None, **how): return quiet(sweep.run, folder, progress=False, **how)

def state(pipe):
    "What of a pipeline a sweep may not change"
    layers = [type(m.processor) for m in pipe.unet.modules() if hasattr(m, 'set_processor')]
    kinds = [type(x) for x in pipe.components.values()]
    return (pipe.scheduler, sorted(vars(pipe.scheduler)), dict(pipe._progress_bar_config), type(pipe), kinds, layers,
            'decode' in vars(pipe.vae), dict(pipe.config))

def doubled(pipe): pipe.unet.conv_in.weight.data.mul_(2)           # PyTorch does not count this
def halved(pipe): pipe.text_encoder.get_input_embeddings().weight.detach().numpy()[:] *= .5
def freed(pipe): pipe.enable_freeu(s1=.9, s2=.2, b1=1.5, b2=1.6)
def tiled(pipe): pipe.vae.use_tiling, pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = True, 8, 4
def activated(pipe): pipe.unet.conv_act = torch.nn.ReLU()
def hooked(pipe): pipe.unet.conv_in.register_forward_hook(lambda m, args, out: 2*out)
def looks_less(pipe): pipe.set_ip_adapter_scale(.3)

@pytest.mark.parametrize('change', [doubled, halved, freed, tiled, activated, hooked, looks_less])
def test_a_changed_pipeline_is_another(change, tmp_path):
    "Whatever was done to a pipeline between two runs, no image of before is taken for one of now"
    pipe, _, sweep = told_xl('StableDiffusionXLPipeline' + '+ip'*(change is looks_less))
    before = swept(sweep(), tmp_path, exact=True)
    change(pipe)
    now, plain = swept(sweep(), tmp_path, exact=True), swept(sweep(), exact=True)
    for a, b, c in zip(before.cells, now.cells, plain.cells):
        assert np.array_equal(pixels(b), pixels(c)) and not np.array_equal(pixels(a), pixels(b))
    assert swept(sweep(), tmp_path, exact=True).made == 0

def test_room(tmp_path):
    "Answers take no more room than is given, an image is the same with any, and nothing is held in the end"
    from cf_guidance.adapters import hosted_plans, memo
    pipe, _, sweep = told_xl()
    count, seen, images = hosted_plans.HostedPlan._count, [], []
    def counted(self, host, bar):
        seen.append(host.memo.size + host.sides.size)
        count(self, host, bar)
    hosted_plans.HostedPlan._count = counted
    try:
        for room in (0, 5_000, 20_000, 10**8):
            made = swept(sweep(seed=[1, 2]), exact=True, memo_bytes=room)
            assert max(seen) <= room and (room or made.saved == 0)
            images.append(np.stack([pixels(c) for c in made.cells]))
            seen.clear()
    finally: hosted_plans.HostedPlan._count = count
    assert made.saved > 0 and all(np.array_equal(images[0], other) for other in images) and not memo._SEEN

@pytest.mark.parametrize('name', ['StableDiffusionXLPipeline', 'FluxPipeline+true_cfg', 'StableUnCLIPPipeline',
                                  'StableDiffusionGLIGENPipeline'])
@pytest.mark.parametrize('exact', [False, True])
def test_at_most(name, exact, every):
    "A plan makes no more calls than it says: halves or two calls, a prior before, a batch that cannot be cut"
    if not every and exact == (name == 'StableUnCLIPPipeline'): pytest.skip('one of the heavier cases')
    pipe, call, texts = told(name)
    late = [1., 3., 3., 3., 3., 3.]                                # it reads `t` alone at first
    cut = constant(3.).cutoff(.3)
    for negative, schedule in [('', [late]), ('', [late, cut]), (texts[0], [cut])]:
        sweep = Sweep(pipe, prompt=texts[:2], negative_prompt=negative, schedule=schedule, seed=[1, 2, 3], steps=6,
                      call=call)
        most = int(sweep.explain(timed=False, exact=exact).split('at most ')[1].split(' ')[0])
        made = swept(sweep, exact=exact)
        assert not [c.failed for c in made.cells if c.failed] and 0 < made.made <= most

def test_two_experts():
    "A schedule may turn at the boundary of Wan's two networks: above it both predictions, below it `t` alone"
    pipe, call, texts = told('WanPipeline+two')
    edge, asked = pipe.config.boundary_ratio*1000, []
    for net in (pipe.transformer, pipe.transformer_2):
        net.register_forward_hook(lambda net, args, out: asked.append(net))
    above = constant(3.).within_timesteps(edge, 1000)
    made = swept(Sweep(pipe, prompt=texts[0], schedule=[3., above], seed=1, steps=6, call=call), record=True)
    assert not any(c.failed for c in made.cells) and (pixels(made.cells[0]) != pixels(made.cells[1])).any()
    rows = made.cells[1].image.info['record']
    high = [r['timestep'] >= edge for r in rows]
    assert 0 < sum(high) < 6 and [r['g'] for r in rows] == [3. if h else 1. for h in high]
    # the first network makes both predictions once for both images; below, the two have parted
    first, second = [sum(net is x for x in asked) for net in (pipe.transformer, pipe.transformer_2)]
    assert (first, second) == (2*sum(high), 3*(6 - sum(high)) - 1)

def test_a_cache_is_not_shared():
    "What keeps something from call to call is asked each time, and that is said before and after"
    from diffusers import FirstBlockCacheConfig
    pipe, call, texts = told('FluxPipeline+true_cfg')
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=.5))
    sweep, said = Sweep(pipe, prompt=texts[0], schedule=[3., 4.], seed=1, steps=4, call=call), []
    text = sweep.explain(timed=False)
    made = swept(sweep, warn=said.append)
    assert 'Equal calls of FluxTransformer2DModel are not shared' in text and 'none saved' in text
    assert made.saved == 0 and any('are not shared' in words for words in said)

@pytest.mark.parametrize('error', [RuntimeError('boom'), KeyboardInterrupt()])
def test_an_error_in_the_middle(error, tmp_path, monkeypatch):
    "One image fails alone, with its reason; a sweep that is stopped goes on; the pipeline is as it was"
    pipe, _, sweep = told_xl()
    before, own, calls = state(pipe), type(pipe.unet).forward, []
    @functools.wraps(own)
    def forward(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 6: raise error
        return own(self, *args, **kwargs)
    monkeypatch.setattr(type(pipe.unet), 'forward', forward)
    four, stopped = sweep(schedule=3., seed=[1, 2, 3, 4]), isinstance(error, KeyboardInterrupt)
    if stopped:
        with pytest.raises(KeyboardInterrupt): swept(four, tmp_path)
    else: swept(four, tmp_path)
    assert state(pipe) == before
    assert [c.made for c in four.cells] == ([True, False, False, False] if stopped else [True, False, True, True])
    failures = tmp_path/'failures.jsonl'
    assert stopped != (failures.is_file() and 'RuntimeError: boom' in failures.read_text())
    monkeypatch.undo()
    again, plain = swept(four, tmp_path), swept(sweep(schedule=3., seed=[1, 2, 3, 4]), memo_bytes=0)
    for a, b in zip(again.cells, plain.cells): assert np.abs(pixels(a).astype(int) - pixels(b)).max() <= 2
    assert not failures.exists() and (tmp_path/'metadata.jsonl').read_text().count('\n') == 4

def test_the_first_run_is_refused(tmp_path, monkeypatch):
    "A prompt that a pipeline cannot read takes no other with it"
    pipe, _, sweep = told_xl()
    encode = type(pipe).encode_prompt
    def encoded(self, prompt=None, *args, **kwargs):
        if 'green' in prompt: raise RuntimeError('green is not read')
        return encode(self, prompt, *args, **kwargs)
    monkeypatch.setattr(type(pipe), 'encode_prompt', encoded)
    made = swept(sweep(prompt=['two green rings', 'a red circle'], schedule=3.), tmp_path)
    assert [c.made for c in made.cells] == [False, True] and 'green is not read' in str(made.cells[0].failed)
    made = swept(sweep(prompt='two green rings', schedule=3.), tmp_path)
    assert 'RuntimeError: green is not read' in str(made.cells[0].failed)

def test_two_threads(tmp_path):
    "One pipeline makes one sweep at a time; the other is refused, and the pipeline is as it was"
    pipe, _, sweep = told_xl()
    before, begun, done, said = state(pipe), threading.Event(), threading.Event(), []
    def first():
        for engine, cells in sweep()._groups():
            engine.begin()
            images = engine.plan([c.run for c in cells]).images(False)
            said.append(next(images))
            begun.set()
            done.wait(60)
            images.close()
    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(60)
    with pytest.raises(RuntimeError, match='give each thread a pipeline of its own'):
        swept(sweep(sampler='ddim'), tmp_path)
    done.set()
    thread.join()
    assert state(pipe) == before and not list(tmp_path.glob('images/*')) and len(said) == 1
    assert all(c.made for c in swept(sweep(sampler='ddim'), tmp_path).cells)

@pytest.mark.parametrize('name', ['StableDiffusionXLPAGPipeline', 'StableDiffusionSAGPipeline'])
def test_processors_are_put_back(name):
    "A pipeline that puts its own attention in place, and is refused then, has the former again"
    pipe, _, sweep = told_xl(name)
    before = state(pipe)
    assert all(c.failed for c in swept(sweep(schedule=3.)).cells) and state(pipe) == before

def test_inputs_of_all_kinds(tmp_path):
    "Arguments come back as they were, and each image is made again from the folder"
    rng = np.random.default_rng(1)
    red = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    few = red.quantize(8)
    other = few.copy()
    other.putpalette(few.getpalette()[::-1])
    pipe, call, sweep = told_xl('StableDiffusionXLInpaintPipeline')
    mask = np.asarray(red.convert('L'))[None, :, ::-1]/np.float32(255)
    given = {**call, 'mask_image': mask, 'original_size': (16, np.int64(16)), 'eta': np.float32(0)}
    names = set()
    for image in (few, other, red.convert('CMYK'), np.asarray(red, np.float32)[None]/255):
        for c in swept(sweep(call={**given, 'image': image}), tmp_path, exact=True).cells:
            assert c.failed is None
            names.add(c.id)
            assert np.array_equal(np.asarray(quiet(rerun, c.file, pipe, progress=False)), pixels(c))
    assert len(names) == 8                                         # two palettes are two images

def test_bad_input():
    "What cannot be swept is refused by its name, before anything is made"
    pipe, call, sweep = told_xl()
    embeds = dict.fromkeys(['prompt_embeds', 'pooled_prompt_embeds'], torch.zeros(1, 6, 32))
    for make, said in [
        (lambda: Sweep('stabilityai/sdxl'), 'pass a name to the axis `model`'),
        (lambda: Sweep(type(pipe)), '`pipe` must'), (lambda: Sweep(pipe, call=3), '`call` must be a dict'),
        (lambda: Sweep(pipe, axes=[3]), '`axes` must be a dict'),
        (lambda: sweep(axes={'guidance_scale': [3., 7.]}), 'the transform replaces it'),
        (lambda: sweep(call={**call, 'eta': float('nan')}), 'finite numbers'),
        (lambda: sweep(call={**call, **embeds}, prompt=['a', 'b']), 'embeddings replace it'),
        (lambda: swept(sweep(), workers=2), '`workers` must be None unless `load_pipeline`'),
        (lambda: swept(sweep(model='scenes')), 'cannot both be given'),
        (lambda: swept(sweep(), pieces='scenes'), '`pieces`'),
        (lambda: swept(sweep(size=16)), 'cannot both be given')]:
        with pytest.raises(ValueError, match=said): make()
    image = Image.new('RGB', (16, 16))
    _, call, sweep = told_xl('StableDiffusionXLImg2ImgPipeline')
    with pytest.raises(ValueError, match='`image` cannot be an axis and in `call`'): sweep(image=[image])

def test_samplers_of_another_kind(tmp_path):
    "A model of flow matching takes no sampler of a noise schedule: the image would be noise, and no error"
    pipe, call, texts = told('StableDiffusion3Pipeline')
    made = swept(Sweep(pipe, prompt=texts[0], schedule=3., steps=3, call=call,
                       sampler=['ddim', 'FlowMatchHeunDiscreteScheduler']), tmp_path)
    assert [c.made for c in made.cells] == [False, True]
    assert '`sampler` must be for flow matching' in str(made.cells[0].failed)

LOADED = '''
import json, os, sys, warnings
from diffusers import DiffusionPipeline
from cf_guidance.sweeps import Sweep, cells
warnings.simplefilter('ignore')
model, folder = sys.argv[1:]
log, save = os.open(folder + '.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND), cells.save_image
def saved(image, recipe, folder):
    path = save(image, recipe, folder)
    os.write(log, b'wrote\\n')
    return path
cells.save_image = saved
pipe = DiffusionPipeline.from_pretrained(model, local_files_only=True)
sweep = Sweep(pipe, prompt='a red circle', schedule=[3., 4.], seed=[1, 2, 3], steps=3, call=dict(height=16, width=16))
sweep.run(folder, progress=False, exact=True)
os.write(log, b'done\\n')
'''

def test_killed(tmp_path, forks, every):
    "SIGKILL at random images: what is there is whole, nothing is made twice, and what comes is what was left alone"
    model, rng = tmp_path/'model', random.Random(3)
    quiet(told('StableDiffusionXLPipeline')[0].save_pretrained, model)
    def lines(folder): return Path(f'{folder}.log').read_text().split() if Path(f'{folder}.log').exists() else []
    def ids(folder): return {p.name: np.asarray(Image.open(p)) for p in folder.glob('images/*.png')}
    plain = tmp_path/'plain'
    forks.run(LOADED, model, plain, check=True)
    for k in range(10 if every else 1):
        folder = tmp_path/f'sweep{k}'
        while 'done' not in lines(folder):
            n, child = len(lines(folder)), forks.start(LOADED, model, folder)
            want = n + rng.randint(1, 3)
            while len(lines(folder)) < want and child.poll() is None: time.sleep(.002)
            child.kill()
            child.wait()
        assert lines(folder).count('wrote') <= 6 and not list(folder.rglob('*.tmp'))
        ours, theirs = ids(folder), ids(plain)
        assert ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)
        assert (folder/'metadata.jsonl').read_text().count('\n') == 6 and (folder/'index.html').is_file()
