"A sweep of any pipeline: what is shared is what is made alone, to the bit; folders, resumes, reruns, as of our own loop"
import csv, json, warnings
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

def one_row(x):
    "The first of two, where an argument of the families has one for each of two images"
    rows = isinstance(x, list) or isinstance(x, torch.Tensor) and x.ndim > 0
    return x[:1] if rows and len(x) == 2 else x

def told(name):
    "A tiny pipeline, what its call is told for one image, and two prompts"
    pipe, args = MAKERS[name]()
    texts = args.get('prompt') or ['a red circle']
    texts = texts if isinstance(texts, list) else [texts]
    return pipe, {k: one_row(v) for k, v in args.items() if k not in OURS}, texts

def pixels(cell): return np.asarray(cell.image)

def quiet(f, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return f(*args, **kwargs)

@pytest.mark.parametrize('name', FEW)
def test_sweep(name, tmp_path):
    "2 prompts, 2 seeds, 4 schedules, 2 transforms; equal schedules are one image"
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
