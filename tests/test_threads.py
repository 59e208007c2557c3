"Threads: one transform, one denoiser or one model in several of them gives what it gives alone, or the second thread is refused"
import copy, inspect, pickle, threading, time
from functools import cache
import numpy as np, pytest, torch
from cf_guidance.sampling import beginnings
from cf_guidance.adapters import as_pipeline, guided, guidance_callback
from cf_guidance.transforms import Recorded
from cf_guidance.adapters import GuidedDenoiser
from cf_guidance.transforms import TRANSFORMS, guidance
from cf_guidance.pieces import get_sd_pieces, text_embeddings
from cf_guidance.sampling import begin_run, generate, sample_latents
from cf_guidance.schedules import Step, linear
from cf_guidance.sweeps import Sweep
from cf_guidance.transforms import GuidanceTfm
from cf_guidance.sampling import Run, Wave, embed
from transformers import CLIPTokenizer

N, STEPS, PATIENCE = 4, 3, 120
STATEFUL = [name for name, cls in TRANSFORMS.items() if 'state' in inspect.signature(cls.rule).parameters]
WEAK = 'pag', 'seg', 'slg', 'icg', 'autoguidance'

@pytest.fixture(scope='module')
def pieces(): return get_sd_pieces(device='cpu')

def own_words(pieces):
    "A tokenizer for a pipeline of diffusers, which waits for no other thread"
    return CLIPTokenizer.from_pretrained(pieces.tokenizer.name_or_path, subfolder='tokenizer')

def together(f, args):
    "What `f` gives for each of `args`, each in a thread of its own: a result, or an exception"
    def work(k):
        try: res[k] = f(args[k])
        except Exception as e: res[k] = e
    res = [None]*len(args)
    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(args))]
    for th in threads: th.start()
    for th in threads: th.join(PATIENCE)
    assert not any(th.is_alive() for th in threads)
    return res

def in_step(n):
    "A callback that lets no thread make a step before the others have made theirs"
    barrier = threading.Barrier(n)
    def callback(*_): barrier.wait(PATIENCE)
    return callback

def near(a, b):
    """But for rounding: sums follow where a thread's memory lies, and `smc` goes by signs, so that a rounding can turn one.
    Two seeds, and two runs that share a memory, are farther apart by more than five times."""
    return ((a - b).abs().mean() < .1*b.std()).item()

def drawn(tfm, pieces, seed, callback=None):
    return sample_latents('a red cone', tfm, pieces, seeds=[seed], steps=STEPS, sampler='ddim', progress=False,
                          callback=callback)

@pytest.mark.parametrize('name', [*STATEFUL, *WEAK, 'cfg', 'base_norm'])
def test_one_transform_in_four_threads(name, pieces, every):
    "The image that each thread makes alone, step by step beside the others"
    if not every and name not in ('smc', 'pag', 'base_norm'): pytest.skip('with --all')
    tfm, seeds, wait = guidance(name, g=linear(6, 2)), range(1, N + 1), in_step(N)
    want = [drawn(copy.deepcopy(tfm), pieces, s) for s in seeds]
    for res, w in zip(together(lambda s: drawn(tfm, pieces, s, wait), seeds), want): assert near(res, w)
    assert not near(want[0], want[1]) and len({w.numpy().tobytes() for w in want}) == N

class Leaning(GuidanceTfm):
    "Keeps the last push in an attribute of its own"
    push = 0
    def reset(self): self.push = 0
    def post_proc(self, u, t, idx): self.push = self.push + .5*(t - u); self.pred = self.pred + self.push

def noting():
    seen = []
    class Notes:
        def __call__(self, u, t, idx): seen.append(int(idx)); return t
    return Notes()

@pytest.mark.parametrize('make', [lambda: Leaning({'g': 3.}), lambda: Recorded(guidance('cfg')), noting],
                         ids=['subclass', 'recorded', 'object'])
def test_a_second_thread_is_refused(make, pieces):
    "What a transform of one's own keeps is that of one run: the first thread's image is right, the others are told"
    want = drawn(make(), pieces, 1)
    tfm, met = make(), threading.Barrier(2)

    def first(step, latents):
        met.wait(PATIENCE) if int(step) == 0 else met.wait(PATIENCE) if int(step) == STEPS - 1 else None
    def second(seed):
        met.wait(PATIENCE)
        try: return drawn(tfm, pieces, seed)
        finally: met.wait(PATIENCE)
    one, two = together(lambda job: job(1), [lambda s: drawn(tfm, pieces, s, first), second])
    assert near(one, want) and isinstance(two, RuntimeError) and 'is in a run of another thread' in str(two)
    assert torch.equal(drawn(tfm, pieces, 1), want)                                   # and is free again

def test_a_sweep_copies_what_is_of_ones_own(pieces):
    "A sweep in each thread, with one transform of one's own in all of them"
    tfm = Leaning({'g': 3.})
    def images(seed):
        made = Sweep(transform=lambda sched: tfm, schedule=[3.], seed=[seed], steps=3,
                     sampler='ddim').run(None, pieces, progress=False)
        return [c.image.tobytes() for c in made.cells]
    want = [images(s) for s in range(N)]
    assert together(images, range(N)) == want

def test_a_run_stays_in_its_thread(pieces):
    course, runs = begin_run(pieces, 'ddim', 3), [Run('a red cone', guidance('smc'), 1)]
    walk = Wave(runs, pieces, course, (8, 8), embed(runs, pieces)).walk()
    next(walk)
    error, = together(lambda _: next(walk), [0])
    assert isinstance(error, RuntimeError) and 'in the thread that started it' in str(error)

@pytest.mark.parametrize('name', ['smc', 'base_norm'])
def test_guided_in_threads(name, pieces):
    "One transform in the pipelines of several threads"
    tfm = guidance(name, g=linear(6, 2))
    def image(seed, tfm=tfm):
        pipe = as_pipeline(
            pieces._replace(tokenizer=own_words(pieces), unet=copy.deepcopy(pieces.unet),
                            scheduler=begin_run(pieces, 'ddim', 1).scheduler))
        with guided(pipe, tfm):
            return pipe('a red cone', num_inference_steps=4, guidance_scale=3.,
                        generator=torch.Generator().manual_seed(seed), output_type='latent').images
    want = [image(s, copy.deepcopy(tfm)) for s in range(N)]
    for res, w in zip(together(image, range(N)), want): assert near(res, w)
    assert not near(want[0], want[1])

def euler(model, x, sigmas, both):
    "k-diffusion's plain sampler"
    s_in = x.new_ones([x.shape[0]])
    for i in range(len(sigmas) - 1):
        den = model(x, sigmas[i]*s_in, **both)
        x = x + (x - den)/sigmas[i]*(sigmas[i + 1] - sigmas[i])
    return x
def sample_euler(model, x, sigmas, both): return euler(model, x, sigmas, both)

@pytest.mark.parametrize('sampler', [euler, sample_euler], ids=['unknown', 'known'])
def test_one_denoiser_in_four_threads(sampler):
    "Each thread's run has its own steps and its own memory, whether the loop is known or not"
    levels, barrier = torch.tensor([10., 4., 2., 1., .5, 0.]), threading.Barrier(N)
    both = {'cond': torch.ones(1, 1), 'uncond': torch.full((1, 1), .5)}
    def model(x, sigma, cond): time.sleep(.002); return (x*cond - x.square()/20)/(1 + sigma.view(-1, 1))
    def denoiser(): return GuidedDenoiser(model, guidance('smc', g=linear(6, 2)), levels)

    def run(seed, den):
        return sampler(den, 10*torch.randn(1, 8, generator=torch.Generator().manual_seed(seed)), levels, both)
    def beside(seed): barrier.wait(PATIENCE); return run(seed, shared)
    want, shared = [run(s, denoiser()) for s in range(N)], denoiser()
    for res, w in zip(together(beside, range(N)), want): assert torch.equal(res, w)

def test_one_callback_in_threads(pieces):
    "A callback of diffusers has the numbers of its own run, also beside a longer one"
    sched = guidance_callback(linear(6, 2))
    def scales(n):
        seen, pipe = [], as_pipeline(
            pieces._replace(tokenizer=own_words(pieces), scheduler=begin_run(pieces, 'ddim', 1).scheduler))
        def note(pipe, i, ts, kw): out = sched(pipe, i, ts, kw); seen.append(pipe.guidance_scale); return out

        pipe('a red cone', num_inference_steps=n, guidance_scale=6., callback_on_step_end=note, output_type='latent',
             generator=torch.Generator().manual_seed(1))
        return seen
    counts = [3, 9, 4, 7]
    assert together(scales, counts) == [[*linear(6, 2).values(n)[1:], 2.] for n in counts]

def test_the_built_in_model_is_loaded_once(monkeypatch):
    loads = []
    def slow(): time.sleep(.05); loads.append(1); return object()
    monkeypatch.setattr(beginnings, '_loaded', cache(slow))
    assert len({id(p) for p in together(lambda _: beginnings.built_in(), range(N))}) == len(loads) == 1

@pytest.mark.parametrize('make', [copy.copy, copy.deepcopy, lambda tfm: pickle.loads(pickle.dumps(tfm))],
                         ids=['copy', 'deepcopy', 'pickle'])
def test_a_copy_goes_its_own_way(make):
    "A copy has what the rule kept in this thread; what either keeps from then on is its own"
    u, t = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(1)).split(1)
    tfm, plain = guidance('apg', g=3., beta=-.5), guidance('apg', g=3., beta=-.5)
    for k in (0, 1): tfm(u, t, idx=Step(k, 4)); plain(u, t, idx=Step(k, 4))
    other = make(tfm)
    for k in (2, 3): other(t, u, idx=Step(k, 4))
    for k in (2, 3): assert torch.equal(tfm(u, t, idx=Step(k, 4)), plain(u, t, idx=Step(k, 4)))
    assert torch.equal(make(plain)(u, t, idx=Step(3, 4)), plain(u, t, idx=Step(3, 4)))

def test_explorer_sweep_and_generate_on_one_model(pieces, every):
    "Many threads at once, with plain, stateful and weak rules: all images are those made alone, and the network is as it was"
    names, each = (['cfg', 'smc', 'apg', 'pag', 'seg', 'slg'], 20) if every else (['cfg', 'smc', 'pag'], 1)
    hashed = lambda: (pieces.fingerprint, [(k, id(type(m)), 'forward' in vars(m), id(getattr(m, 'processor', None)))
                                           for k, m in pieces.unet.named_modules()])
    tfms, before = {name: guidance(name, g=4.) for name in names}, hashed()
    def one(job):
        name, seed, how = job
        if how == 'generate':
            return generate('a red cone', tfms[name], pieces, seed=seed, steps=4, sampler='ddim', progress=False)
        made = Sweep(transform=name, schedule=[4.], prompt='a red cone', seed=[seed], steps=4,
                     sampler='ddim').run(None, pieces, progress=False)
        return made.cells[0].image
    jobs = [(name, seed, how) for seed in range(each) for name in names for how in ('generate', 'sweep')]
    want = [one(job) for job in jobs]
    def work(k): return [(j, one(jobs[j])) for j in range(k, len(jobs), N)]
    got = dict(pair for part in together(work, range(N)) for pair in part)
    far = lambda a, b: abs(np.asarray(a, int) - np.asarray(b, int)).mean()
    assert all(far(got[j], want[j]) < (4 if jobs[j][0] == 'smc' else .5)
               for j in range(len(jobs))) and hashed() == before
    # each rule and seed is an image of its own
    assert len({im.tobytes() for im in want[::2]}) == len(want[::2])

def test_a_tokenizer_serves_one_thread_at_a_time(pieces):
    "It keeps the padding of its last call; two calls at once gave texts of two lengths, or an error"
    class Alone:
        def __init__(self, own): self.own, self.free, self.met = own, threading.Lock(), 0
        def __getattr__(self, k): return getattr(self.own, k)
        def __call__(self, *args, **kwargs):
            if not self.free.acquire(blocking=False): self.met += 1; return self.own(*args, **kwargs)
            time.sleep(.005)
            try: return self.own(*args, **kwargs)
            finally: self.free.release()
    one = pieces._replace(tokenizer=Alone(pieces.tokenizer))
    texts = ['a red cone', 'a small blue torus in front of a large white cube', '', 'a green sphere']
    want = [text_embeddings(t, pieces) for t in texts]
    for res, w in zip(together(lambda t: text_embeddings(t, one), texts), want):
        assert torch.allclose(res, w, atol=1e-4)
    assert one.tokenizer.met == 0
