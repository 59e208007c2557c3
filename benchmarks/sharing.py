"What a sweep costs when equal work is done once: `python benchmarks/sharing.py` rewrites sharing.json, in about 20 minutes on two cores"
import argparse, json, os, platform, resource, statistics, subprocess, sys, tempfile, time
from collections import Counter
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

root = Path(__file__).parent.parent
sys.path.insert(0, str(root))
import diffusers, numpy as np, torch
from diffusers import AutoencoderKL, LMSDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
from cf_guidance.sweeps import cells, engines
from cf_guidance.pieces import Pieces, get_scheduler, get_sd_pieces, image_from_latents, latent_size
from cf_guidance.sampling import count_calls
from cf_guidance.sweeps import Plan
from cf_guidance.sampling import begin_run
from cf_guidance.schedules import cosine, get_cos_sched
from cf_guidance.sweeps import Sweep
from cf_guidance.transforms import TRANSFORMS, GuidanceTfm
from cf_guidance.sampling import Run, in_batches, start_noise

# guidance; what the pipeline is given for 1 where its callback cannot leave `u` out
G, HELD = 7.5, 1.001
BATCHES = 8, 16, 32, 64                  # batch sizes tried for the bound
WAYS = 'ours', 'pipeline', 'loop', 'bound'
PROMPTS = 'a shiny red star', 'a blue circle', 'a flat green heart', 'a red star above a blue circle'
CURVE = dict(max_val=G, min_val=1)
# how many of these go one by one: every schedule once, every transform twice
PART = {'8 seeds x 10 schedules': 10, '4 prompts x 4 seeds x 6 transforms': 12}
# the nine cosines of 2022, in 50 steps
SWEPT = {'k_decay': [.8, .6], 'max_val': [10], 'min_val': [3], 'num_cycles': [1, 1.5], 'num_warmup_steps': [5, 10, 15]}

# what is made

def between(n, lo, hi): return [G if lo <= k < hi else 1 for k in range(n)]
def cutoffs(n): return [between(n, 0, n*k//5) for k in range(1, 6)]
def windows(n): return [between(n, n*lo//50, n*hi//50) for lo in (5, 10, 15) for hi in (25, 30, 35, 40)]
def ten_of_2022(n):
    "The constant of 2022 and its nine cosines"
    return [[G]*n] + [
        get_cos_sched(num_steps=n, **CURVE | {k: v*n//50 if k == 'num_warmup_steps' else v})
        for k, vals in SWEPT.items()
        for v in vals
    ]
def six(n):
    "Six transforms"
    plain = [GuidanceTfm({'g': g}) for g in ([G]*n, get_cos_sched(num_steps=n, **CURVE), between(n, 0, 2*n//5))]
    return plain + [TRANSFORMS[k]({'g': g}) for k, g in (('base_norm', G), ('t_norm', .15), ('full_norm', .15))]

def workloads(n):
    "Runs of each workload, in `n` steps, a multiple of 10"
    guided = lambda scheds, seeds=(1,): [Run(PROMPTS[0], GuidanceTfm({'g': s}), seed) for seed in seeds for s in scheds]
    return {
        "the ten of 2022": guided(ten_of_2022(n)), 'five cut-offs': guided(cutoffs(n)),
        'twelve windows': guided(windows(n)), '8 seeds x 10 schedules': guided(ten_of_2022(n), range(1, 9)),
        '4 prompts x 4 seeds x 6 transforms': [
            Run(p, tfm, seed) for p in PROMPTS for seed in range(1, 5) for tfm in six(n)
        ]
    }

# the ways to make it

def timed(f):
    begin = time.perf_counter()
    res = f()
    return time.perf_counter() - begin, res

def shared(pieces, runs, n, **kwargs):
    "Ours: one plan, with its texts, images and all"
    plan = Plan(runs, pieces, steps=n, **kwargs)
    images = {i: im for wave in plan.images(progress=False) for i, im in wave.items()}
    return [images[i] for i in range(len(runs))], plan

def values(run, n):
    "The guidance that the pipeline can be given: the schedule of plain guidance, a constant at the same cost for a rule that it lacks"
    g = run.tfm.schedules['g']
    return list(g) if type(run.tfm) is GuidanceTfm else [G]*n

class Guided:
    "A schedule by the pipeline's own callback: off for good after the last step that needs `u`, as its documentation has it, and held above 1 before"
    def __init__(self, vals):
        self.last = max((k for k, v in enumerate(vals) if v != 1), default=-1)
        self.vals = [max(v, HELD) if k <= self.last else 1 for k, v in enumerate(vals)]
        self.held = sum(v <= 1 for v in vals[:self.last + 1])
    def __call__(self, pipe, i, ts, seen):
        if i + 1 < len(self.vals): pipe._guidance_scale = self.vals[i + 1]
        if i == self.last: seen['prompt_embeds'] = seen['prompt_embeds'].chunk(2)[-1]
        return seen

def pipeline(pieces):
    pipe = StableDiffusionPipeline(**pieces._asdict(), safety_checker=None, feature_extractor=None,
                                   requires_safety_checker=False)
    pipe.scheduler = get_scheduler(pieces.scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe

def by_pipeline(pipe, pieces, run, n, size):
    "(a): diffusers' pipeline, called for this image"
    g, noise = Guided(values(run, n)), start_noise(run.seed, pieces, latent_size(pieces, size, size))[0]
    return pipe(run.prompt, height=size, width=size, guidance_scale=g.vals[0], num_inference_steps=n, latents=noise,
                callback_on_step_end=g, callback_on_step_end_tensor_inputs=['prompt_embeds']).images[0]

@torch.no_grad()
def by_loop(pieces, run, n):
    "(b): the loop of 2022, with both rows at every step"
    tok, text, _, unet, scheduler = pieces
    read = lambda p: text(
        tok([p], padding='max_length', max_length=tok.model_max_length, truncation=True, return_tensors='pt').input_ids
    )[0]
    emb = torch.cat([read(''), read(run.prompt)])
    scheduler.set_timesteps(n)
    x = start_noise(run.seed, pieces, latent_size(pieces))[0]*scheduler.init_noise_sigma
    for i, ts in enumerate(scheduler.timesteps):
        u, t = unet(scheduler.scale_model_input(torch.cat([x]*2), ts), ts, encoder_hidden_states=emb).sample.chunk(2)
        x = scheduler.step(run.tfm(u, t, idx=i), ts, x).prev_sample
    return image_from_latents(x, pieces)

def rows_of(plan):
    "Distinct rows of each call of the network, for each wave"
    parts = [([plan.runs[i] for i in wave], [plan.scripts[i] for i in wave]) for wave in plan.waves]
    return [[b - a
             for a, b in pairwise(count_calls(*part, plan.calls[:k])[0]
                                  for k in range(len(plan.calls) + 1))]
            for part in parts]

@torch.no_grad()
def network_alone(pieces, waves, n, most):
    "(c): the network on these rows and nothing else, `most` at a time"
    rows, conf = max(max(wave) for wave in waves), pieces.text_encoder.config
    x, emb = torch.randn(rows, pieces.unet.config.in_channels,
                         *latent_size(pieces)), torch.randn(rows, pieces.tokenizer.model_max_length, conf.hidden_size)
    calls = begin_run(pieces, None, n).scheduler.timesteps
    for wave in waves:
        for k, ts in zip(wave, calls):
            in_batches(lambda part: pieces.unet(x[part], ts, encoder_hidden_states=emb[part]).sample, k, most)

# the table

def far(a, b): return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())

def measure(name, runs, n, rounds, part, batches, pieces, pipe):
    "One row: each way in turn, `rounds` times; the ways that go one by one on the first `part` runs"
    first, (_, plan) = timed(lambda: shared(pieces, runs, n))
    waves, secs, some = rows_of(plan), {way: [] for way in WAYS}, runs[:part]
    assert plan.made == sum(map(sum, waves)), f'{name}: {plan.made} passes made, {sum(map(sum, waves))} counted'
    tried = {
        b: min(timed(lambda: network_alone(pieces, waves[:1], n, b))[0]
               for _ in range(min(rounds, 2)))
        for b in batches
    }
    best = min(tried, key=tried.get)
    for k in range(rounds):
        # ours and the bound in turn, oftener where they are short
        for _ in range(min(rounds, max(2, round(20/first)))):
            took, (images, plan) = timed(lambda: shared(pieces, runs, n)); secs['ours'].append(took)
            secs['bound'].append(timed(lambda: network_alone(pieces, waves, n, best))[0])
        took, piped = timed(lambda: [by_pipeline(pipe, pieces, r, n, pieces.size) for r in some])
        secs['pipeline'].append(took)
        took, looped = timed(lambda: [by_loop(pieces, r, n) for r in some]); secs['loop'].append(took)
    guided, plain = [Guided(values(r, n)) for r in some], [type(r.tfm) is GuidanceTfm for r in some]
    gaps = [far(a, b) for a, b, p in zip(images, looped, plain) if p
            ] + [far(a, b) for a, b, p, g in zip(images, piped, plain, guided) if p and not g.held]
    assert max(gaps) <= 2, f'{name}: an image of the pipeline or the loop is {max(gaps)} of 255 away'
    mid, scale = {k: statistics.median(v) for k, v in secs.items()}, len(runs)/len(some)
    return dict(name=name, images=len(runs), one_by_one=len(some), waves=len(waves), made=plan.made, alone=plan.alone,
                held=sum(g.held for g in guided), batch=best, compared=len(gaps), gap=max(gaps),
                seconds={k: [round(s, 3)
                             for s in v]
                         for k, v in secs.items()}, pipeline=round(scale*mid['pipeline']/mid['ours'],
                                                                   3), loop=round(scale*mid['loop']/mid['ours'], 3),
                bound=round(statistics.median(a/b for a, b in zip(secs['ours'], secs['bound'])), 3))

def sharing(quick, only=''):
    "Every workload, or those whose names begin with `only`: passes in 50 steps by counting, and its row"
    pieces, n = get_sd_pieces('shapes', device='cpu'), 10 if quick else 50
    pipe, rows = pipeline(pieces), []
    warm = Run(PROMPTS[0], GuidanceTfm({'g': [G]*n}))
    shared(pieces, [warm], n), by_pipeline(pipe, pieces, warm, n, pieces.size), by_loop(pieces, warm, n)
    for (name, whole), runs in zip(workloads(50).items(), workloads(n).values()):
        if not name.startswith(only): continue
        plan = Plan(whole, pieces)
        part = PART.get(name, len(runs))
        row = measure(name, runs[:part] if quick else runs, n, 1 if quick else 3, part,
                      BATCHES[1::2] if quick else BATCHES, pieces, pipe)
        rows.append(dict(row, counted=dict(images=len(whole), made=plan.most, alone=plan.alone)))
        print(said(rows[-1]), flush=True)
    return n, rows

def said(r):
    c, part = r['counted'], '' if r['one_by_one'] == r[
        'images'] else f" (one by one measured on {r['one_by_one']} of {r['images']})"
    return (
        f"{r['name']}: {c['made']} passes for {c['alone']}, {c['alone']/c['made']:.2f} times fewer; time: pipeline "
        f"{r['pipeline']:.2f}, loop of 2022 {r['loop']:.2f} times ours, "
        f"ours {r['bound']:.2f} times the network alone{part}")

# memory, and a network of true size: each in a process of its own

def random_pieces(true_size):
    "The layout of Stable Diffusion 1.5 with random weights: its U-Net in true size, a small VAE of its factor, a shallow text encoder of its width"
    torch.manual_seed(0)
    tok = get_sd_pieces('shapes', device='cpu').tokenizer
    tok.model_max_length, blocks = 77, (320, 640, 1280, 1280) if true_size else (32, 64, 64, 64)
    text = CLIPTextModel(
        CLIPTextConfig(vocab_size=len(tok), hidden_size=768, intermediate_size=3072, num_hidden_layers=2,
                       num_attention_heads=12, max_position_embeddings=77))
    vae = AutoencoderKL(block_out_channels=(32, 32, 32, 32), layers_per_block=1, latent_channels=4,
                        down_block_types=('DownEncoderBlock2D', )*4, up_block_types=('UpDecoderBlock2D', )*4)
    unet = UNet2DConditionModel(sample_size=64, block_out_channels=blocks, layers_per_block=2, cross_attention_dim=768,
                                attention_head_dim=8)
    return Pieces(tok, *[m.eval().requires_grad_(False) for m in (text, vae, unet)],
                  LMSDiscreteScheduler(beta_start=.00085, beta_end=.012, beta_schedule='scaled_linear', steps_offset=1))

def peak():
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(1024 if sys.platform != 'darwin' else 2**20), 1)

def in_child(way, model, n, out):
    "In this process: make the runs in one way, two rows at a time, and print what it took"
    pieces = get_sd_pieces('shapes', device='cpu') if model == 'shapes' else random_pieces(model == 'true size')
    size, scheds = (pieces.size,
                    cutoffs(n)) if model == 'shapes' else (256 if model == 'true size' else 64,
                                                           [[G, 1, 1], [G, G, 1], [G, G, G], [1, G, G], [1, 1, G]])
    runs, pipe, loaded = [Run(PROMPTS[0], GuidanceTfm({'g': s})) for s in scheds], pipeline(pieces), peak()
    rows = []
    pieces.unet.register_forward_pre_hook(lambda m, args: rows.append(len(args[0])))
    if way == 'ours': took, (images, _) = timed(lambda: shared(pieces, runs, n, width=size, height=size, batch_size=2))
    else: took, images = timed(lambda: [by_pipeline(pipe, pieces, r, n, size) for r in runs])
    np.save(out, np.stack([np.asarray(im) for im in images]))
    print(
        json.dumps(
            dict(seconds=round(took, 3), peak=peak(), loaded=loaded, rows=sum(rows), batch=max(rows), size=size,
                 parameters=sum(p.numel() for p in pieces.unet.parameters()))))

def apart(model, n, rounds, threads):
    "One row: ours and the pipeline in turn, each in a fresh process"
    got, images = {'ours': [], 'pipeline': []}, {}
    with tempfile.TemporaryDirectory() as d:
        for way in list(got)*rounds:
            args = [
                sys.executable, __file__, '--alone', way, model,
                str(n), f'{d}/{way}.npy', '--threads',
                str(threads)
            ]
            got[way].append(
                json.loads(subprocess.run(args, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]))
            images[way] = np.load(f'{d}/{way}.npy')
    (a, b), mid = [got[way][0] for way in got], lambda way, k: statistics.median(r[k] for r in got[way])
    gap, differ = far(images['ours'], images['pipeline']), max(far(images['ours'][0], im) for im in images['ours'])
    said = f'{model}: {gap} of 255 away, where images differ by {differ}'
    assert gap <= 2 < 8 < differ, said
    assert a['batch'] <= b['batch'] == 2, f"{model}: {a['batch']} rows at a time for {b['batch']}"
    ratio = lambda k: round(mid('pipeline', k)/mid('ours', k), 3)
    res = dict(model=model, parameters=a['parameters'], pixels=a['size'], steps=n, images=len(images['ours']), gap=gap,
               differ=differ, time=ratio('seconds'), rows=ratio('rows'),
               memory=round(mid('ours', 'peak')/mid('pipeline', 'peak'), 3),
               **{way: {k: [r[k]
                            for r in got[way]]
                        for k in ('seconds', 'peak', 'loaded', 'rows')}
                  for way in got})
    print(
        f"{model}: pipeline {res['time']:.2f} times the time and {res['rows']:.2f} times the rows of ours; peak memory "
        f"of ours {res['memory']:.2f} times the pipeline's",
        flush=True)
    return res

# growth

class Clock:
    "Seconds inside the functions that it wraps, by name"
    def __init__(self): self.spent = Counter()
    def __call__(self, name, f):
        def inside(*args, **kwargs):
            took, res = timed(lambda: f(*args, **kwargs))
            self.spent[name] += took
            return res
        return inside

@contextmanager
def watched(clock, parts):
    "In this block `clock` takes the time of the parts of a sweep, functions of its engine or of its cells by name"
    with ExitStack() as stack:
        for name, f in parts.items():
            module = cells if hasattr(cells, f) else engines
            stack.enter_context(patch.object(module, f, clock(name, getattr(module, f))))
        yield

def fill(folder, n, pieces, clock, steps=5, sampler='ddim'):
    "Make a folder of `n` images, ten schedules to a seed"
    sweep = Sweep(prompt=PROMPTS[0], seed=list(range(n//10)), schedule=[cosine(5 + k/2, 1) for k in range(10)],
                  steps=steps, sampler=sampler)
    parts = {
        'planning': 'Plan', 'recipes': 'recipe', 'PNG': 'save_image', 'metadata': 'write_metadata',
        'viewer': 'renew_viewer'
    }
    with watched(clock, parts): sweep.run(folder, pieces, progress=False)
    return sweep

def filled(n, pieces):
    "Seconds for `n` images, whole and by part"
    clock, nets = Clock(), {'network': pieces.unet, 'text': pieces.text_encoder, 'decoding': pieces.vae.decoder}
    for name, net in nets.items(): net.forward = clock(name, net.forward)
    try:
        with tempfile.TemporaryDirectory() as d:
            took, sweep = timed(lambda: fill(d, n, pieces, clock))
            assert len(list(Path(d, 'images').glob('*.png'))) == n == len(
                Path(d, 'metadata.jsonl').read_text().splitlines())
    finally:
        for net in nets.values(): del net.forward
    parts = {k: round(s, 4) for k, s in clock.spent.items()} | {'rest': round(took - sum(clock.spent.values()), 4)}
    return dict(images=n, seconds=round(took, 3), made=sweep.made, alone=sweep.made + sweep.saved, parts=parts)

def growth(quick):
    "The line through the seconds of ever more images, each weighed by its size, and milliseconds an image by part"
    pieces = get_sd_pieces('shapes', device='cpu')
    filled(10, pieces)
    rows = [filled(n, pieces) for n in ((10, 20, 30) if quick else (10, 30, 100, 300, 1000))]
    n, took = [np.array([r[k] for r in rows], float) for k in ('images', 'seconds')]
    slope, start = np.polyfit(n, took, 1, w=1/took)
    each = {k: round(1000*v/rows[-1]['images'], 3) for k, v in rows[-1]['parts'].items()}
    res = dict(steps=5, sampler='ddim', start_s=round(start, 4), per_image_ms=round(1000*slope, 3),
               off=[round(v, 4) for v in (start + slope*n)/took - 1], parts_ms=each, rows=rows)
    print(
        f"growth: {start:.2f} s + {1000*slope:.1f} ms an image, the line off by at most "
        f"{max(map(abs, res['off'])):.0%}; ms an image at {rows[-1]['images']}: {each}",
        flush=True)
    return res

def machine():
    model = next(
        (l.split(':')[1].strip()
         for l in open('/proc/cpuinfo')
         if l.startswith('model name')), platform.machine()) if os.path.exists('/proc/cpuinfo') else platform.machine()
    return f'{os.cpu_count()} cores of {model}, no GPU, Python {platform.python_version()}'

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--quick', action='store_true', help='few steps, few images, one round: does it run?')
    p.add_argument('--threads', type=int, default=2, help='threads of torch')
    p.add_argument('--out', type=Path, default=Path(__file__).with_suffix('.json'), help='where the table goes')
    p.add_argument('--only', default='',
                   help='measure the workloads whose names begin so anew, and leave the rest of the table')
    p.add_argument('--alone', nargs=4, help=argparse.SUPPRESS)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    diffusers.utils.logging.set_verbosity_error()
    if a.alone: return in_child(a.alone[0], a.alone[1], int(a.alone[2]), a.alone[3])
    n, rows = sharing(a.quick, a.only)
    if a.only:
        res = json.loads(a.out.read_text())
        res['workloads'] = [next((new for new in rows if new['name'] == old['name']), old) for old in res['workloads']]
        return a.out.write_text(json.dumps(res, indent=1) + '\n')
    memory = [
        apart('shapes', n, 1, a.threads),
        apart('small' if a.quick else 'true size', 3, 1 if a.quick else 2, a.threads)
    ]
    res = dict(machine=machine(), torch=torch.__version__, diffusers=diffusers.__version__,
               command='python benchmarks/sharing.py' + ' --quick'*a.quick + f' --threads {a.threads}'*(a.threads != 2),
               threads=a.threads, steps=n, workloads=rows, apart=memory, growth=growth(a.quick))
    a.out.write_text(json.dumps(res, indent=1) + '\n')

if __name__ == '__main__': main()
