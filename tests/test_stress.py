"Four threads on one model: each image is as it is alone, and the network stays as it was"
import threading
import numpy as np, torch
from transformers import CLIPTokenizer
from cf_guidance.adapters import as_pipeline, guided
from cf_guidance.transforms import guidance
from cf_guidance.pieces.fingerprint import fingerprint_of
from cf_guidance.sampling import generate
from cf_guidance.sweeps import Sweep
from cf_guidance.sampling import built_in
from cf_guidance.widgets import ScheduleExplorer

WEAK = {name: dict(layers='all') for name in ('pag', 'seg', 'slg')}
WEAK |= {'icg': {}, 'tsg': {}, 'autoguidance': {}}
STATEFUL = {'smc': {}, 'apg': dict(beta=-.5), 'feedback': {}, 'adaptive_guidance': {}, 'reuse': {}}
RULES = {'cfg': {}, **WEAK, **STATEFUL}
STEPS = 2

def pixels(image): return np.asarray(image.convert('RGB'), int)

def apart(some, others):
    "Largest difference of two lists of images, of 255"
    assert len(some) == len(others)
    return max(abs(a - b).max() for a, b in zip(some, others))

def generated(pieces, rule, seed):
    "One image by `generate`"
    how = dict(seed=seed, steps=STEPS, sampler='ddim', progress=False)
    return [pixels(generate('a red cone', guidance(rule, g=5., **RULES[rule]), pieces, **how))]

def hosted(pieces, rule, seed, **more):
    "One image by a pipeline of diffusers that has the same network"
    # diffusers waits for no other thread that reads
    own = CLIPTokenizer.from_pretrained(pieces.tokenizer.name_or_path, subfolder='tokenizer')
    pipe = as_pipeline(pieces._replace(tokenizer=own))
    pipe.set_progress_bar_config(disable=True)
    how = dict(num_inference_steps=STEPS, output_type='pil',
               generator=torch.Generator().manual_seed(seed), **more)
    with guided(pipe, guidance(rule, g=5., **RULES[rule])):
        return [pixels(pipe('a red cone', **how).images[0])]

def swept(pieces, rule, seed):
    "Two images by a sweep, which go through the network together"
    cls = type(guidance(rule))
    one = Sweep(prompt='a red cone', seed=[seed, seed + 1000], transform=cls, schedule=5,
                sampler='ddim', steps=STEPS, **RULES[rule])
    one.run(pieces=pieces, progress=False)
    assert not any(c.failed for c in one.cells)
    return [pixels(c.image) for c in one.cells]

def explored(pieces, rule, seed):
    "The image of an explorer, which renders in a thread of its own"
    explorer = ScheduleExplorer(5., rule, pieces=pieces, prompt='a red cone', seed=seed,
                                steps=STEPS, preview=STEPS, settle=0)
    assert explorer.latest.join(600) and explorer.film is not None, explorer.status.value
    image = explorer.film.image
    explorer.close()
    return [pixels(image)]

WAYS = generated, hosted, swept, explored

def state(pieces):
    "All of a network that a pass might change: weights, forwards, processors"
    parts = [(name, m) for net in pieces[1:4] for name, m in net.named_modules()]
    own = [(name, sorted(k for k, v in vars(m).items() if callable(v))) for name, m in parts]
    processors = [id(getattr(m, 'processor', None)) for _, m in parts]
    return fingerprint_of(pieces), own, processors, [len(m._forward_hooks) for _, m in parts]

def test_four_threads_on_one_model(every):
    pieces, rules = built_in(), list(RULES) if every else ['cfg', 'pag', 'slg', 'smc']
    seeds = range(1, 5) if every else [1]              # 5 images of a rule and seed: 200, or 20
    jobs = [(way, rule, seed) for way in WAYS for rule in rules for seed in seeds]
    before = state(pieces)
    alone = {job: job[0](pieces, *job[1:]) for job in jobs}
    assert state(pieces) == before
    together, failed = {}, []
    def work(way, order):
        for job in order:
            try: together[job] = way(pieces, *job[1:])
            except BaseException as e: failed.append((*job[1:], way.__name__, repr(e)))
    threads = []
    for k, way in enumerate(WAYS):                     # at one time each is at another rule
        own = [job for job in jobs if job[0] is way]
        threads.append(threading.Thread(target=work,
                                        args=(way, own[k*len(own)//4:] + own[:k*len(own)//4])))
    for th in threads: th.start()
    for th in threads: th.join()
    assert not failed
    assert sum(map(len, together.values())) == 5*len(rules)*len(seeds)
    # sums of floats follow where a thread's memory lies, so a value may be rounded the other way
    assert [job for job in jobs if apart(together[job], alone[job]) > 1] == []
    assert len({im.tobytes() for images in alone.values() for im in images}) > len(jobs)//4
    assert state(pieces) == before and pieces.fingerprint == before[0]

def test_a_network_in_other_hands():
    "In the middle of a guided pipeline another thread uses its network; both are as alone"
    pieces, inner = built_in(), []
    alone = generated(pieces, 'slg', 1), hosted(pieces, 'smc', 1)
    def meanwhile(pipe, k, ts, kept):
        th = threading.Thread(target=lambda: inner.append(generated(pieces, 'slg', 1)))
        th.start(); th.join()
        return kept
    assert apart(hosted(pieces, 'smc', 1, callback_on_step_end=meanwhile), alone[1]) <= 1
    assert len(inner) == STEPS and all(apart(im, alone[0]) <= 1 for im in inner)
