"A compiled network makes the same images within 1 of 255, keeps its file, and leaves what it cannot do to the network itself"
import copy, re, warnings
from importlib.util import find_spec
import numpy as np, pytest, torch
from PIL import Image
from cf_guidance import cli
from cf_guidance.adapters import HostedEngine, load_pipeline
from cf_guidance.pieces import compile_model, compiled_as, get_sd_pieces
from cf_guidance.records import image_id, read_recipe, recipe, rerun
from cf_guidance.sampling import Settings, generate
from cf_guidance.sweeps import Sweep
from cf_guidance.sweeps.core import load_model
from cf_guidance.transforms import guidance

NAME = 'shapes-weak'
here = pytest.mark.skipif(not (find_spec('onnxruntime') and find_spec('onnx')),
                          reason="needs pip install 'cf_guidance[onnx]'")

@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        m.setenv('CF_GUIDANCE_CACHE', str(home := tmp_path_factory.mktemp('cache')))
        yield home/'onnx'

@pytest.fixture(scope='module')
def both(cache): return [get_sd_pieces(NAME, device='cpu', compile=how) for how in (None, 'onnx')]

@pytest.fixture(scope='module')
def pipes(cache): return [load_pipeline(NAME, device='cpu', compile=how) for how in (None, 'onnx')]

def pixels(cell): return np.asarray(cell.image if cell.file is None else Image.open(cell.file), int)

def far(one, two): return max(abs(pixels(a) - pixels(b)).max() for a, b in zip(one.cells, two.cells))

AXES = dict(prompt='a red star', sampler=['ddim', 'euler', 'dpm++_2m', 'heun'], schedule=[3, 'cosine'],
            transform=['cfg', 'apg', 'rescale', 'cfg_zero', 'momentum'], steps=5, seed=1)

@here
@pytest.mark.parametrize('kind', ['both', 'pipes'])
def test_equal_images(kind, request, every):
    "Of several samplers and rules, in both engines; and as many network calls"
    axes = AXES if every else {**AXES, 'sampler': ['ddim', 'heun'], 'transform': ['cfg', 'momentum'], 'steps': 3}
    made = [Sweep(**axes).run(None, model, progress=False) for model in request.getfixturevalue(kind)]
    assert all(c.failed is None for sweep in made for c in sweep.cells)
    assert far(*made) <= 1
    assert [(s.made, s.saved) for s in made][0] == (made[1].made, made[1].saved) and made[1].saved > 0

@here
@pytest.mark.parametrize('size', [(32, 48), (64, 32)])
def test_other_sizes(both, size, every):
    if size[0] > 32 and not every: pytest.skip('one of the heavier cases')
    a, b = [np.asarray(generate('a red star', guidance('cfg', g=4), p, steps=2, width=size[0], height=size[1],
                                progress=False), int) for p in both]
    assert a.shape == (size[1], size[0], 3) and abs(a - b).max() <= 1

@here
def test_weak_passes_are_made_by_the_network(both, every):
    "What disturbs a layer is said, and does what it does in the network itself"
    for rule in ('pag', 'seg', *('slg', 'tsg', 'autoguidance')*every):
        mine = both[1]._replace(unet=copy.deepcopy(both[1].unet))            # which has said nothing yet
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            a, b = [np.asarray(generate('a red star', guidance(rule), p, steps=2, progress=False), int)
                    for p in (both[0], mine)]
        told = [str(w.message) for w in said if 'itself makes a prediction' in str(w.message)]
        assert len(told) == 1 and 'is disturbed or watched' in told[0], (rule, told)
        assert abs(a - b).max() <= 1, rule

@here
def test_weak_passes_in_a_pipeline(pipes):
    made = [Sweep(pipe, prompt='a red star', transform=['pag', 'icg', 'compose'], steps=2).run(None, progress=False)
            for pipe in pipes]
    assert far(*made) <= 1

@here
def test_it_is_in_the_recipe(both, pipes, tmp_path):
    "So a folder keeps both, each is made once, and each is made again as it was; without it a recipe is as it was"
    told = [recipe('a red star', guidance('cfg'), p, steps=2) for p in both]
    assert 'compile' not in told[0] and {**told[0], 'compile': 'onnx'} == told[1]
    assert image_id(told[0]) != image_id(told[1])
    axes = dict(prompt='a red star', schedule=[2, 5], steps=2)
    for _ in range(2):
        for model in (*both, *pipes): Sweep(**axes).run(tmp_path, model, progress=False)
    files = sorted((tmp_path/'images').glob('*.png'))
    recipes = [read_recipe(p) for p in files]
    assert sorted((r.get('compile', ''), 'host' in r) for r in recipes) == [
        (how, hosted) for how in ('', 'onnx') for hosted in (False, True) for _ in range(2)]
    for p, r in zip(files, recipes):
        again = np.asarray(rerun(p, progress=False), int)
        assert abs(again - np.asarray(Image.open(p), int)).max() <= 1, r
        if 'host' not in r:
            other = both[r.get('compile') is None]
            with pytest.raises(ValueError, match='entries of the recipe differ: compile'): rerun(p, other)
    engines = [HostedEngine(pipe, Settings(steps=2)) for pipe in pipes]
    for e in engines: e.begin()
    assert engines[0].model['model'] == engines[1].model['model']                   # it is the same model

@here
def test_exported_once(cache, both, forks):
    "The next process reads the file"
    generate('a red star', guidance('cfg'), both[1], steps=1, progress=False)
    src = ("import sys, torch\ntorch.onnx.export = None\nfrom cf_guidance.pieces import get_sd_pieces\n"
           "from cf_guidance.sampling import generate\nfrom cf_guidance.transforms import guidance\n"
           f"p = get_sd_pieces({NAME!r}, device='cpu', compile='onnx')\n"
           "generate('a red star', guidance('cfg'), p, steps=1, progress=False)\nprint('made')")
    assert forks.run(src, check=True, CF_GUIDANCE_CACHE=str(cache.parent)).stdout.split() == ['made']

@here
def test_a_model_that_changed(both, cache):
    "Weights that are trained, or loaded into the network, are those that count"
    plain, mine = [p._replace(unet=copy.deepcopy(p.unet)) for p in both]
    for p in (plain, mine): p.unet.mid_block.resnets[0].conv1.weight.mul_(1.5)
    before, after = len([*cache.iterdir()]), [
        np.asarray(generate('a red star', guidance('cfg'), p, steps=3, progress=False), int)
        for p in (both[1], plain, mine)]
    assert abs(after[1] - after[2]).max() <= 1 < abs(after[0] - after[2]).max()
    assert len([*cache.iterdir()]) == before + 1

@here
def test_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.cfg_sweep(model=NAME, prompt='a red star', schedule='3', steps='2', out='made', no_grid=True, compile='onnx')
    file, = (tmp_path/'made/images').glob('*.png')
    assert read_recipe(file)['compile'] == 'onnx'
    cli.cfg_sweep(model=NAME, prompt='a red star', schedule='3', steps='2', out='hosted', no_grid=True, compile='onnx',
                  engine='hosted')
    file, = (tmp_path/'hosted/images').glob('*.png')
    assert read_recipe(file)['compile'] == 'onnx' and 'host' in read_recipe(file)

def test_refused(tmp_path):
    "What is no way to compile, with those that there are"
    words = re.escape("`compile` must be one of [None, 'torch', 'onnx']; got 'openvino'")
    for load in (get_sd_pieces, load_pipeline, load_model):
        with pytest.raises(ValueError, match=words): load(NAME, device='cpu', compile='openvino')
    for f in (cli.cfg_sweep, cli.cfg_explore, cli.cfg_race, cli.cfg_search):
        with pytest.raises(ValueError, match=r"`compile` must be .*\['', 'torch', 'onnx'\]"): f(compile='openvino')
    half = get_sd_pieces(NAME, torch.bfloat16, device='cpu')
    if find_spec('onnxruntime'):
        with pytest.raises(ValueError, match='unless the network is in float32 on a CPU'): compile_model(half, 'onnx')

def test_torch(every, cache):
    "By `torch.compile`, block by block, for several numbers of rows"
    if not every: pytest.skip('one of the heavier cases')
    plain, mine = [get_sd_pieces(NAME, device='cpu', compile=how) for how in (None, 'torch')]
    assert compiled_as(mine) == 'torch' == recipe('a red star', guidance('cfg'), mine, steps=2)['compile']
    axes = dict(prompt='a red star', schedule=[1, 3, 'cosine'], transform=['cfg', 'pag'], steps=2)
    assert far(*[Sweep(**axes).run(None, p, progress=False) for p in (plain, mine)]) <= 1

EXPORTED = 'StableDiffusionXLPipeline', 'StableDiffusion3Pipeline', 'StableDiffusionControlNetPipeline'
MORE = 'DiTPipeline', 'KandinskyV22Pipeline', 'StableVideoDiffusionPipeline', 'StableDiffusionImg2ImgPipeline'
REFUSED = 'QwenImagePipeline', 'Lumina2Pipeline'             # complex numbers, which ONNX has not

def tiny(name):
    import test_families as families
    return families, *families.FAMILIES[name][1].FAMILIES[name]()

@here
@pytest.mark.parametrize('name', (*EXPORTED, *MORE))
def test_other_networks(name, every):
    "As tests/test_families.py has them"
    if name in MORE and not every: pytest.skip('one of the heavier cases')
    families, pipe, kw = tiny(name)
    plain = families.draw(name, pipe, kw, n=2)
    assert compiled_as(compile_model(pipe, 'onnx')) == 'onnx'
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'compile')
        assert families.close(families.draw(name, pipe, kw, n=2), plain, 1e-4)

@here
@pytest.mark.parametrize('name', REFUSED)
def test_networks_without_an_export(name, every, capfd):
    if name == REFUSED[1] and not every: pytest.skip('one of the heavier cases')
    families, pipe, kw = tiny(name)
    compile_model(pipe, 'onnx')
    with pytest.raises(ValueError, match="`compile` must be None or 'torch' for .*, which PyTorch cannot export"):
        families.draw(name, pipe, kw, n=2)
    assert 'graph(' not in capfd.readouterr().out

@here
@pytest.mark.parametrize('kind', ['both', 'pipes'])
def test_workers_compile_too(kind, request, monkeypatch):
    "What is handed to a worker of Ray loads the model as it is here, or fails"
    model, seen = request.getfixturevalue(kind)[1], []
    sweep = Sweep(prompt='a red star', schedule=[2, 5], steps=2)
    def hands(plan, progress):
        load, begin = plan.hand_out()
        there = load()
        assert there is not model and compiled_as(there) == 'onnx'
        monkeypatch.setattr('cf_guidance.adapters.hosted_plans.compiled_as', lambda model: None)
        monkeypatch.setattr('cf_guidance.sweeps.plans.compiled_as', lambda model: None)
        with pytest.raises(ValueError, match="`compile` must be possible on each worker; 'onnx' is not on one"): load()
        monkeypatch.undo()
        waves = [*begin(there, plan.runs, seen.append).images(progress=False)]
        yield {i: x for wave in waves for i, x in wave.items()}
    monkeypatch.setattr('cf_guidance.sweeps.core.by_itself', hands)
    made = sweep.run(None, model, progress=False)
    assert all(c.failed is None for c in made.cells)
    monkeypatch.undo()
    assert far(made, Sweep(prompt='a red star', schedule=[2, 5], steps=2).run(None, model, progress=False)) <= 1
