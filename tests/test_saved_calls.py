"An image of a call inside of `guided` holds the recipe that a sweep writes, and is made again from it, to the bit"
import numpy as np, pytest, torch
from PIL import Image
from cf_guidance.adapters import HostedEngine, as_pipeline, call_recipe, guided, save_call, takes
from cf_guidance.adapters.arguments import embedded
from cf_guidance.adapters.hosted_plans import image_in
from cf_guidance.pieces import get_sd_pieces
from cf_guidance.records import read_recipe, rerun
from cf_guidance.sampling import Run, Settings
from cf_guidance.schedules import constant
from cf_guidance.sweeps import Sweep
from cf_guidance.transforms import guidance
from test_engines import FEW, LEFT, MAKERS, TABLE, quiet, told

SWITCHES = 'StableDiffusionGLIGENPipeline',

def drawn(pipe, call, text, tfm, n=4, seed=3, **kw):
    "An image of a pipeline inside of `guided`, called as a user calls it, and the host"
    gen = torch.Generator().manual_seed(seed)
    words = {} if text is None else {'prompt': text}
    with guided(pipe, tfm) as host:
        image = image_in(pipe(**words, **call, num_inference_steps=n, generator=gen, **kw))
    return image, host

@pytest.mark.parametrize('name', list(MAKERS))
def test_families(name, request, tmp_path):
    "By hand, with the arguments of a sweep: its recipe, its image, and the same again from the file"
    if not request.config.getoption('--all') and name not in FEW: pytest.skip('with --all')
    if TABLE[name] == 'refused' or name in LEFT: pytest.skip('not swept')
    if name in SWITCHES: pytest.skip('it leaves layers switched off, and is another pipeline then')
    pipe, call, texts = told(name)
    tfm = guidance('cfg', g=constant(3.).cutoff(.5))
    # who gives embeddings gives no prompt
    run = Run(texts[0] if 'prompt' in {*takes(pipe)} - embedded(call) else '', tfm, 3)
    engine = HostedEngine(pipe, Settings(steps=4), call).of([run])
    quiet(engine.begin)
    args = engine.arguments(run)
    by_hand = {k: v for k, v in args.items() if k not in ('generator', 'num_inference_steps', 'prompt')}
    image, host = quiet(drawn, pipe, by_hand, args.get('prompt'), tfm)
    said = quiet(call_recipe, host, image)
    assert said == {**engine.recipe(run), 'width': image.width, 'height': image.height}
    for path in (tmp_path/'lone.png', tmp_path/'sweep'):
        kept = quiet(save_call, host, image, path)
        again = quiet(rerun, kept, pipe, progress=False)
        assert np.array_equal(np.asarray(again), np.asarray(Image.open(kept))), path

def test_a_sweep_goes_on_from_it(tmp_path):
    "A sweep in the folder takes the image for its own"
    pipe = as_pipeline(get_sd_pieces('shapes-weak', device='cpu'))
    image, host = drawn(pipe, {'eta': .5}, 'a red star', guidance('cfg', g=5.), seed=1)
    kept = host.save(image, tmp_path)
    sweep = Sweep(pipe, prompt='a red star', schedule=[5., 6.], seed=1, steps=4, call={'eta': .5})
    quiet(sweep.run, tmp_path, progress=False)
    # four steps of two calls, for the other one alone
    assert sweep.cells[0].file == kept and sweep.made + sweep.saved == 8
    assert len([*tmp_path.glob('images/*.png')]) == 2
    assert np.array_equal(np.asarray(Image.open(sweep.cells[0].file)), np.asarray(image))

@pytest.mark.parametrize('change', ['weights', 'sampler', 'release', 'call', 'scale'])
def test_another_model_is_refused(change, tmp_path, monkeypatch):
    "What has changed since is named"
    pipe = as_pipeline(get_sd_pieces('shapes-weak', device='cpu'))
    image, host = drawn(pipe, {}, 'a red star', guidance('cfg', g=5.))
    path = host.save(image, tmp_path/'star.png')
    r = read_recipe(path)
    if change == 'weights':
        with torch.no_grad(): pipe.unet.conv_in.weight.mul_(1.5)
        with pytest.raises(ValueError, match='recipe differ: model'): rerun(path, pipe, progress=False)
    elif change == 'sampler':
        pipe.scheduler = type(pipe.scheduler)()                    # the recipe brings its own
        assert np.array_equal(np.asarray(rerun(path, pipe, progress=False)), np.asarray(image))
    elif change == 'release':
        monkeypatch.setattr('diffusers.__version__', '0.1')
        with pytest.raises(ValueError, match='recipe differ: release'): rerun(path, pipe, progress=False)
    elif change == 'call':
        with pytest.raises(ValueError, match='must be a diffusers pipeline'):
            rerun(path, get_sd_pieces('shapes-weak', device='cpu'), progress=False)
    else:
        # what stood in the call is not what guides
        assert r['host']['call'] == {'guidance_scale': 7.5} and r['values']['g'] == [5.]*4

def test_a_second_call(tmp_path):
    "What is known is that of the last call"
    pipe = as_pipeline(get_sd_pieces('shapes-weak', device='cpu'))
    gen = torch.Generator().manual_seed(4)
    with guided(pipe, guidance('cfg', g=5.)) as host:
        one = pipe('a red star', num_inference_steps=3, generator=gen).images[0]
        first = call_recipe(host, one)
        two = pipe('a blue star', num_inference_steps=2, generator=gen).images[0]
        second = call_recipe(host, two)
        again = pipe('a red star', num_inference_steps=3, generator=torch.Generator().manual_seed(4)).images[0]
        assert call_recipe(host, again) == first
    assert (first['prompt'], first['steps'], first['seed']) == ('a red star', 3, 4) and 'unknown' not in first
    assert (second['prompt'], second['steps'], set(second['unknown'])) == ('a blue star', 2, {'seed'})
    path = host.save(again, tmp_path/'again.png')
    assert np.array_equal(np.asarray(rerun(path, pipe, progress=False)), np.asarray(one))
