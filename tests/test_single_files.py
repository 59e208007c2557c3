"One file of SDXL, SD3 and Flux, in the names of the programs that trained them"
import shutil
from functools import partial
import pytest, torch
from safetensors.torch import load_file, save_file
from cf_guidance.adapters import layout_of, load_pipeline, pipeline_fingerprint
from cf_guidance.records import read_recipe
from foreign import CALL, MODELS, again, flux_weights, one_file

PROMPT = 'a red circle above a blue square'

@pytest.fixture(scope='module')
def models(tmp_path_factory):
    "For each model a whole folder, one without weights, and one file; each made once"
    root = tmp_path_factory.mktemp('models')
    def of(name):
        home, config, file = [root/f'{name}{end}' for end in ('', '-config', '.safetensors')]
        if not file.exists():
            pipe = MODELS[name]()
            pipe.save_pretrained(home)
            shutil.copytree(home, config, ignore=shutil.ignore_patterns('*.safetensors'))
            save_file(one_file(pipe), file)
        return str(home), str(config), str(file)
    return of

load = partial(load_pipeline, device='cpu', local=True)

@pytest.mark.parametrize('name', ['SDXL', 'SD3'])
def test_is_the_same_model(name, models):
    "The config gives no weight"
    home, config, file = models(name)
    pipe = load(file, config=config)
    assert type(pipe).__name__ == layout_of(home) == layout_of(file, config)
    assert pipeline_fingerprint(pipe) == pipeline_fingerprint(load(home))

@pytest.mark.parametrize('name', ['SDXL', 'SD3'])
def test_command(name, models, tmp_path):
    "`--model file.safetensors --config folder` makes the images of the folder"
    from cf_guidance.cli import cfg_sweep
    home, config, file = models(name)
    more = ' '.join(f'{k}={v}' for k, v in CALL[name].items())
    how = dict(prompt=PROMPT, schedule='3', steps='2', size='16', device='cpu', call=more, no_grid=True)
    cfg_sweep(model=file, config=config, out=str(tmp_path/'file'), **how)
    cfg_sweep(model=home, out=str(tmp_path/'folder'), **how)
    told = [read_recipe(next((tmp_path/k/'images').glob('*.png'))) for k in ('file', 'folder')]
    assert {k for k in told[0] if told[0][k] != told[1][k]} == {'model_name'} and told[0]['model_name'] == file
    assert len({p.name for p in tmp_path.glob('*/images/*.png')}) == 1     # one id: one image

def test_parts_of_the_config(models, tmp_path):
    "What the file has no weight of comes from the config, where that is a whole model"
    home, config, file = models('SD3')
    for k, lacks in enumerate(['text_encoders.t5xxl', 'text_encoders', ('text_encoders', 'first_stage_model')]):
        part = str(tmp_path/f'{k}.safetensors')
        save_file({n: w for n, w in load_file(file).items() if not n.startswith(lacks)}, part)
        assert pipeline_fingerprint(load(part, config=home)) == pipeline_fingerprint(load(home))
        with pytest.raises(ValueError, match='`config` must have the weights of the ') as e: load(part, config=config)
        assert '\n' not in str(e.value)

@pytest.mark.parametrize('name, part', [('SDXL', 'output_blocks.2'), ('SD3', 'joint_blocks.1.x_block.mlp'),
                                        ('SDXL', 'embedders.1.model.transformer.resblocks.1.ln_1'),
                                        ('SD3', 'clip_g.transformer.text_model.encoder.layers.0.mlp'),
                                        ('SDXL', 'first_stage_model.decoder.mid.attn_1.q')])
def test_a_file_that_lacks_weights(name, part, models, tmp_path):
    "It is refused, in one line"
    home, config, file = models(name)
    less = {k: w for k, w in load_file(file).items() if part not in k}
    assert 0 < len(load_file(file)) - len(less) < 40
    save_file(less, path := str(tmp_path/'less.safetensors'))
    with pytest.raises(ValueError, match='`model` must') as e: load(path, config=config)
    assert path in str(e.value) and '\n' not in str(e.value)

def test_another_width(models):
    "diffusers cuts Flux's matrices at the width of the one Flux there is; another is refused"
    home, config, file = models('Flux')
    with pytest.raises(ValueError, match='`model` must fit its `config`.*as a FluxPipeline') as e:
        load(file, config=home)
    assert '\n' not in str(e.value)

def test_flux(models, tmp_path, every):
    "The transformer alone, of the width of Flux and one layer of each kind: half a billion weights"
    if not every: pytest.skip('a file of a gigabyte')
    home = tmp_path/'flux'
    pipe = MODELS['Flux']()
    with torch.device('meta'):
        net = again(pipe.transformer, attention_head_dim=128, num_attention_heads=24, axes_dims_rope=(16, 56, 56))
    net = net.to(torch.bfloat16).to_empty(device='cpu')
    with torch.no_grad():
        for k, w in enumerate(net.parameters()):
            w.copy_((torch.arange(w.numel(), dtype=torch.int32) + k).view(w.shape) % 251)
    pipe.transformer = None
    pipe.save_pretrained(home)
    net.save_config(home/'transformer')
    told = home/'model_index.json'
    told.write_text(told.read_text().replace('"transformer": [\n    null,\n    null',
                                             '"transformer": [\n    "diffusers",\n    "FluxTransformer2DModel"'))
    weights = {k: w.contiguous() for k, w in flux_weights(net).items()}
    save_file(weights, file := str(home/'flux.safetensors'))
    found = load(file, config=str(home), dtype='bfloat16').transformer.state_dict()
    own = net.state_dict()
    assert set(found) == set(own) and all(torch.equal(found[k], own[k]) for k in own)
