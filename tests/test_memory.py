"A rule with a memory advances once in each step, whatever host and sampler it is in"
import copy, inspect
import diffusers as df, pytest, torch
from cf_guidance.adapters import guided, ScheduledGuider
from cf_guidance.transforms import TRANSFORMS, guidance
from cf_guidance.pieces import get_sd_pieces
from cf_guidance.sampling import begin_run
from cf_guidance.schedules import linear
from cf_guidance.worlds import trees, toy_pieces
from cf_guidance.sampling import Run, Wave, embed
from PIL import Image
from hosts import same
from modular import sdxl
from test_families import FAMILIES, draw

N = 5
RULES = [name for name, cls in TRANSFORMS.items() if 'state' in inspect.signature(cls.rule).parameters]
ALONE = [name for name in RULES if not guidance(name).weaker]      # which want no other text
# samplers that call twice in a step; our own loop refuses the last
TWO = 'HeunDiscrete', 'KDPM2Discrete', 'PNDM', 'DPMSolverSDE'

class Watched:
    "A transform, and what each of its calls was given"
    def __init__(self, name):
        params = {'beta': -.5} if name.startswith('apg') else {}
        # so that it is not all warm-up
        params |= {'warmup': 2} if name == 'sld' else {}
        # so that it sees both to the end
        params |= {'threshold': 1.} if name == 'adaptive_guidance' else {}
        self.tfm, self.calls = guidance(name, g=linear(6, 2), **params), []
        self.alone, self.weaker = copy.deepcopy(self.tfm), self.tfm.weaker
    def __deepcopy__(self, memo): return self
    def reset(self): self.tfm.reset(); self.calls.clear()
    def needs(self, step): return self.tfm.needs(step)
    def __call__(self, u, t, idx, *weak, **by_name):
        preds = u, t, *weak, *by_name.values()
        pred = self.tfm(*preds[:2], idx, *preds[2:])
        self.calls.append((preds, idx, pred, self.tfm._kept))
        return pred
    def check(self, twice=True):
        "Calls of one step find what one call in each earlier step left, and that is what is left at the end"
        steps = [int(idx) for _, idx, *_ in self.calls]
        assert sorted(steps) == steps and set(steps) == set(range(steps[0], N)) and (len(steps) > len(
            set(steps))) == twice
        before = {}
        for k in dict.fromkeys(steps):
            (preds, idx, pred, kept), *later = [call for call in self.calls if call[1] == k]
            # it follows a run of one call in each step
            assert torch.equal(self.alone(*preds[:2], idx, *preds[2:]), pred)
            assert all(call[3] is kept and same(kept['before'], before) for call in later)
            before = self.alone._kept['after']
            assert same(kept['after'], before) and (torch.is_tensor(before) or before)

@pytest.mark.parametrize('name', RULES)
@pytest.mark.parametrize('sampler', TWO[:-1])
def test_own_loop(name, sampler):
    tfm, pieces = Watched(name), toy_pieces(trees(), 'v_prediction')
    course, runs = begin_run(pieces, sampler + 'Scheduler', N), [Run('oak', tfm, (1, 2))]
    wave = Wave(runs, pieces, course, (1, 1), embed(runs, pieces))
    for _ in wave.walk(): pass
    assert not wave.failed
    tfm.check()

@pytest.mark.parametrize('name', ALONE)
@pytest.mark.parametrize('sampler', TWO)
def test_guided(name, sampler, every):
    if not every and (RULES.index(name) + TWO.index(sampler)) % 2: pytest.skip('one of the heavier cases')
    pipe, kw = FAMILIES['StableDiffusionPipeline'][1].FAMILIES['StableDiffusionPipeline']()
    pipe.scheduler = getattr(df, sampler + 'Scheduler').from_config(pipe.scheduler.config)
    tfm = Watched(name)
    with guided(pipe, tfm):
        for _ in range(2): draw('StableDiffusionPipeline', pipe, kw, 3., N)
    tfm.check()

@pytest.mark.parametrize('name', ALONE)
def test_guiders(name):
    pipe, kw = sdxl()
    pipe.update_components(scheduler=df.HeunDiscreteScheduler.from_config(pipe.scheduler.config))
    tfm = Watched(name)
    pipe.update_components(guider=ScheduledGuider(tfm, pipe))
    pipe(**kw | {'num_inference_steps': N}, generator=torch.Generator().manual_seed(0))
    tfm.check()

@pytest.mark.parametrize('name', ALONE)
def test_a_run_knows_nothing_of_another(name):
    "Our own loop forgets what a transform saw elsewhere, also where a run begins late, as from an image"
    pieces, tfms = get_sd_pieces(device='cpu'), [Watched(name) for _ in 'ab']
    size, image = (pieces.unet.config.sample_size,)*2, Image.new('RGB', (pieces.size, pieces.size), 'teal')
    def walk(tfm, image, *late):
        course, runs = begin_run(pieces, 'DDIMScheduler', N, *late), [Run('a red cone', tfm, 1, image=image)]
        wave = Wave(runs, pieces, course, size, embed(runs, pieces))
        for _ in wave.walk(): pass
        return wave.x
    walk(tfms[0], None)
    late, fresh = [walk(tfm, image, .6, 'sigma') for tfm in tfms]
    assert torch.equal(late, fresh) and tfms[0].calls[0][1] > 0
    for tfm in tfms: tfm.check(twice=False)
