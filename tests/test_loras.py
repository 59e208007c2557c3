"LoRAs of SDXL, SD3 and Flux, in the formats in which people hand them around"
import warnings
from functools import cache
import numpy as np, pytest, torch
from safetensors.torch import save_file
from cf_guidance.adapters import load_pipeline, pipeline_fingerprint
from cf_guidance.records import read_recipe, rerun
from cf_guidance.sweeps import Sweep
from foreign import ATTENTION, CALL, LORAS, MODELS, kohya, linear, lora, network

pytest.importorskip('peft', reason="peft, with accelerate, comes with the extra 'lora'")
PROMPT = 'a red circle above a blue square'

@pytest.fixture(scope='module')
def homes(tmp_path_factory):
    "Folders of the models, each made once"
    home = tmp_path_factory.mktemp('models')
    def of(name):
        if not (home/name).exists(): MODELS[name]().save_pretrained(home/name)
        return str(home/name)
    return of

@cache
def plain(home):
    "The model without a LoRA, and its fingerprint; for looking only"
    pipe = load(home)
    return pipe, pipeline_fingerprint(pipe)

def load(home, *loras): return load_pipeline(home, device='cpu', lora=loras, local=True)
def mark(home, *loras): return pipeline_fingerprint(load(home, *loras))

def written(make, home, path, seed=0):
    "A LoRA in a file"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = make(plain(home)[0])
    save_file(weights, path)
    return weights, str(path)

def a_lora(homes, tmp_path, name='SDXL', form='peft', seed=0):
    return homes(name), written(LORAS[name, form], homes(name), tmp_path/f'{form}{seed}.safetensors', seed)[1]

def fuse(pipe):
    "Add the LoRAs to the weights, and forget them"
    pipe.fuse_lora(components=list(pipe.get_list_adapters()))
    pipe.unload_lora_weights()

def product(weights):
    "What a LoRA adds to the first of its layers: the product of its matrices, times alpha by rank"
    first = next(iter(weights))
    stem = first.partition('.lora')[0]
    down, up = [v for k, v in weights.items() if k.startswith(stem + '.lora')]
    return up@down*(weights.get(f'{stem}.alpha', len(down))/len(down))

@pytest.mark.parametrize('name, form', LORAS)
def test_is_another_model(name, form, homes, tmp_path):
    "Loaded, weighted otherwise, fused; and whatever its weights are called, it adds the product of its matrices"
    home = homes(name)
    weights, path = written(LORAS[name, form], home, tmp_path/'lora.safetensors')
    own, pipe = plain(home)[0], load(home, path)
    marks = [plain(home)[1], pipeline_fingerprint(pipe)]
    pipe.set_adapters(['lora_0'], [.5])
    marks.append(pipeline_fingerprint(pipe))
    fuse(pipe)
    assert len({*marks, pipeline_fingerprint(pipe)}) == 4
    layer = next(iter(linear(network(own), *ATTENTION)))
    was, now = [network(p).get_submodule(layer).weight for p in (own, pipe)]
    # one product and one sum of numbers of about 1, in single precision
    torch.testing.assert_close(now - was, .5*product(weights)[:len(was)], atol=1e-6, rtol=1e-5)

def test_gone(homes, tmp_path):
    "A LoRA that is unloaded leaves the model that it was; a weight is the same model, however it was set"
    home, path = a_lora(homes, tmp_path)
    pipe = load(home, path)
    pipe.set_adapters(['lora_0'], [.5])
    assert pipeline_fingerprint(pipe) == mark(home, f'{path}:.5')
    pipe.unload_lora_weights()
    assert pipeline_fingerprint(pipe) == plain(home)[1]

def test_several(homes, tmp_path):
    "Each with its weight"
    home, one = a_lora(homes, tmp_path)
    two = a_lora(homes, tmp_path, seed=1)[1]
    marks = {mark(home, *said) for said in ((one, ), (two, ), (one, two), (f'{one}:.5', two), (one, f'{two}:.5'))}
    assert len(marks) == 5

def swept(home, folder, *loras, **how):
    sweep = Sweep(model=home, prompt=PROMPT, schedule=[3., [3., 3., 1., 1.]], seed=1, steps=4,
                  load=dict(lora=list(loras), device='cpu', local=True), **how)
    return sweep.run(folder, exact=True, progress=False)

def models_in(folder):
    "The fingerprints of the models of a folder's images"
    return {read_recipe(p)['model'] for p in (folder/'images').glob('*.png')}

def pixels(cells): return [np.asarray(c.image) for c in cells]

@pytest.mark.parametrize('name', MODELS)
def test_swept(name, homes, tmp_path):
    "Equal work is shared, images are those of each run alone; those of another weight stand beside"
    home, path = a_lora(homes, tmp_path, name)
    out, call = tmp_path/'out', dict(call=CALL[name], size=16)
    half = swept(home, out, f'{path}:.5', **call)
    assert not any(c.failed for c in half.cells) and half.saved > 0
    whole = swept(home, out, path, **call)
    assert whole.made > 0 and len(list((out/'images').glob('*.png'))) == 4
    assert swept(home, out, f'{path}:.5', **call).made == 0                # they are there
    assert all((a != b).any() for a, b in zip(pixels(half.cells), pixels(whole.cells)))
    pipe = load(home, f'{path}:.5')
    for cell, shown in zip(half.cells, pixels(half.cells)):
        assert np.array_equal(np.asarray(rerun(cell.file, pipe, progress=False)), shown)
    with pytest.raises(ValueError, match='recipe differ: model'):
        rerun(half.cells[0].file, plain(home)[0], progress=False)
    assert len(models_in(out)) == 2

def test_command(homes, tmp_path, capsys):
    "`--lora NAME:weight`"
    from cf_guidance.cli import cfg_sweep
    home, path = a_lora(homes, tmp_path)
    def run(lora):
        cfg_sweep(model=home, prompt=PROMPT, schedule='3', steps='2', device='cpu', lora=lora, out=str(tmp_path/'out'))
    for told in (f'{path}:.5', f'{path}:.5||{path}:.25', ''): run(told)
    marks = {mark(home, f'{path}:.5'), mark(home, f'{path}:.5', f'{path}:.25'), plain(home)[1]}
    assert models_in(tmp_path/'out') == marks and len(marks) == 3

def changed(change, name='SDXL', form='peft'):
    "A LoRA in which something is wrong"
    def make(pipe): return change(LORAS[name, form](pipe), pipe)
    return make

def strange(weights, pipe): return {k.replace('attn', 'none'): v for k, v in lora_of(pipe).items()}
def lora_of(pipe): return lora(linear(network(pipe), *ATTENTION), 'lora_A', 'lora_B', 'unet.')
def no_prefix(weights, pipe): return lora(linear(network(pipe), *ATTENTION), 'lora_A', 'lora_B')
def no_lora(weights, pipe): return {'weight': torch.ones(2)}
def wider(weights, pipe): return {k: torch.cat([v, v], 1 if 'lora_A' in k else 0) for k, v in weights.items()}
def halves(weights, pipe): return dict(list(weights.items())[:-1])
def halves_net(weights, pipe): return {k: v for i, (k, v) in enumerate(weights.items()) if i}
BAD = {'layers that there are not': strange, 'no part is named': no_prefix, 'no LoRA': no_lora, 'another width': wider,
       'half of a pair': halves, 'half of a pair of the network': halves_net}

@pytest.mark.parametrize('change', BAD.values(), ids=BAD)
def test_what_does_not_fit(change, homes, tmp_path):
    "It is refused, in one line that names the file"
    path = written(changed(change), homes('SDXL'), tmp_path/'bad.safetensors')[1]
    with pytest.raises(ValueError, match='`lora` must be a LoRA that fits StableDiffusionXLPipeline') as e:
        load(homes('SDXL'), path)
    assert path in str(e.value) and '\n' not in str(e.value)

def test_names_that_diffusers_does_not_know(homes, tmp_path):
    "diffusers takes a LoRA of SD3 in the names of kohya's trainer, and loads nothing of it"
    def make(pipe): return kohya({'joint_blocks.0.x_block.attn.qkv': (8, 24)}, prefix='lora_unet_')
    path = written(make, homes('SD3'), tmp_path/'kohya.safetensors')[1]
    with pytest.raises(ValueError, match='fits StableDiffusion3Pipeline.*none of its 2 weights fits'):
        load(homes('SD3'), path)

def test_a_part_that_fits_nothing(homes, tmp_path):
    "It is left out, and that is said: the model is that of the rest"
    home = homes('SDXL')
    more = changed(lambda w, pipe: w | {'unet.else.to_q.lora_A.weight': torch.ones(2, 4),
                                        'unet.else.to_q.lora_B.weight': torch.ones(4, 2)})
    path = written(more, home, tmp_path/'more.safetensors')[1]
    with pytest.warns(UserWarning, match='2 of the 66 weights of the LoRA .* fit nothing in StableDiffusionXLPipeline'):
        found = mark(home, path)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        assert found == mark(home, a_lora(homes, tmp_path)[1])

def test_not_there(homes, tmp_path):
    "A file, a folder of nothing, a weight that is none, numbers that would be unpickled"
    torch.save({}, tmp_path/'old.bin')
    for name, said in [('none.safetensors', 'a file that exists'), (str(tmp_path), 'a LoRA that fits'),
                       (str(tmp_path/'old.bin'), 'could run any code'), ('style:nan', 'a finite number'),
                       ('owner/name', 'a LoRA that fits')]:
        with pytest.raises(ValueError, match=f'`lora` must .*{said}') as e: load(homes('SDXL'), name)
        assert '\n' not in str(e.value)

def test_with_parts_that_wait(homes, tmp_path):
    "Offloading leaves the model what it is, its images and its sharing"
    home, path = a_lora(homes, tmp_path)
    pipes = [load_pipeline(home, device='cpu', lora=[path], local=True, offload=k) for k in ('none', 'model')]
    assert len({*map(pipeline_fingerprint, pipes)}) == 1
    how = dict(prompt=PROMPT, schedule=[3., [3., 1.]], seed=1, steps=2)
    both = [Sweep(pipe, **how).run(exact=True, progress=False) for pipe in pipes]
    assert both[1].saved > 0
    assert all(np.array_equal(a, b) for a, b in zip(*map(pixels, [s.cells for s in both])))
