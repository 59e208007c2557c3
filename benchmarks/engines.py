"What a sweep of a stock pipeline costs when equal work is done once: `python benchmarks/engines.py` rewrites engines.json, in about 15 minutes on one core"
import argparse, json, statistics, sys, time, warnings
from contextlib import contextmanager
from pathlib import Path

root = Path(__file__).parent.parent
sys.path[:0] = [str(root), str(root/'benchmarks'), str(root/'tests')]
warnings.simplefilter('ignore')
import diffusers, numpy as np, torch
import families_image, families_unet
from cf_guidance.adapters import digest, guided
from cf_guidance.sweeps import Sweep
from cf_guidance.transforms import guidance
from sharing import G, cutoffs, machine, timed, windows

# larger networks of these classes, of which the network is most of the time
LARGER = {
    'StableDiffusionXLPipeline': dict(block_out_channels=(64, 128), layers_per_block=2, norm_num_groups=32,
                                      attention_head_dim=8),
    'StableDiffusion3Pipeline': dict(num_layers=4, num_attention_heads=64, caption_projection_dim=256,
                                     pos_embed_max_size=32),
    'FluxPipeline+true_cfg': dict(num_layers=2, num_single_layers=4, num_attention_heads=24)
}
SIZE = {'StableDiffusionXLPipeline': 96, 'StableDiffusion3Pipeline': 96, 'FluxPipeline+true_cfg': 80}
WAYS = 'shared', 'guided', 'stock', 'network', 'rest'

def larger(name):
    "A pipeline with a larger network of the same class, and what its call is told for one image"
    makers = families_unet.FAMILIES if name in families_unet.FAMILIES else families_image.FAMILIES
    pipe, args = makers[name]()
    place = 'unet' if hasattr(pipe, 'unet') else 'transformer'
    net = getattr(pipe, place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own = type(net)(**{k: v for k, v in {**net.config, **LARGER[name]}.items() if k[0] != '_'})
    pipe.register_modules(**{place: own.eval().requires_grad_(False)})
    rows = {k: v[:1] for k, v in args.items() if isinstance(v, torch.Tensor) and v.ndim > 1}
    return pipe, own, {**rows, 'height': SIZE[name], 'width': SIZE[name]}

class Watch:
    "Keeps what a network was given, call by call"
    def __init__(self, net): self.net, self.calls = net, []
    def __enter__(self):
        self.hook = self.net.register_forward_pre_hook(lambda *call: self.calls.append(call), with_kwargs=True)
        return self
    def __exit__(self, *_): self.hook.remove()
    def rows(self):
        "How many rows the network was given in all"
        return sum(len(next(iter([*args, *kwargs.values()]))) for _, args, kwargs in self.calls)

@torch.no_grad()
def network(calls):
    "The distinct rows again, in the same batches, and nothing else"
    for module, args, kwargs in calls: module(*args, **kwargs)

@contextmanager
def answering(net, draw):
    "In this block the network answers at once: what is left of the stock pipeline is its own"
    said = []
    hook = net.register_forward_hook(lambda net, args, out: said.append(out))
    draw()
    hook.remove()
    net.forward = lambda *args, **kwargs: said[-1]
    try: yield
    finally: del net.forward

def measure(name, what, scheds, n, rounds):
    "One row: five ways in turn, `rounds` times"
    pipe, net, call = larger(name)
    text = {} if 'prompt_embeds' in call else {'prompt': 'a red circle'}
    def sweep():
        s = Sweep(pipe, schedule=[list(map(float, v)) for v in scheds], steps=n, seed=1, call=call, **text)
        return s.run(progress=False)
    def draw(): return pipe(**call, **text, **scale, num_inference_steps=n, generator=torch.Generator().manual_seed(1))
    def each(f): return [np.asarray(f(v), int) for v in scheds]
    def by_guided(v):
        with guided(pipe, guidance('cfg', g=list(map(float, v)))): return draw().images[0]
    scale = {'true_cfg_scale' if 'Flux' in name else 'guidance_scale': G}
    sweep()
    with Watch(net) as seen: first = sweep()
    made, alone = first.made, first.made + first.saved
    assert made == seen.rows(), (made, seen.rows())
    def stock(): return each(lambda v: draw().images[0])
    def rest():
        with answering(net, draw): return timed(stock)[0]
    ways = dict(zip(WAYS, (sweep, lambda: each(by_guided), stock, lambda: network(seen.calls))))
    secs, out = {way: [] for way in WAYS}, {}
    for _ in range(rounds):
        for way, f in ways.items(): took, out[way] = timed(f); secs[way].append(took)
        secs['rest'].append(rest())
    # what the sweep cannot do without: the distinct rows, and what the stock pipeline does besides
    least = statistics.median(s/(n + r) for s, n, r in zip(secs['shared'], secs['network'], secs['rest']))
    gap = max(int(np.abs(np.asarray(c.image, int) - im).max()) for c, im in zip(out['shared'].cells, out['guided']))
    ratio = lambda a, b: round(statistics.median(x/y for x, y in zip(secs[a], secs[b])), 3)
    return dict(name=name.partition('+')[0], workload=what, images=len(scheds), steps=n,
                calls=dict(made=made, alone=alone),
                gap=gap, seconds={k: [round(s, 3) for s in v] for k, v in secs.items()},
                to_guided=ratio('guided', 'shared'), to_stock=ratio('stock', 'shared'),
                to_network=ratio('shared', 'network'), to_least=round(least, 3))

def keys():
    "Seconds for the key of a row at SDXL's size in half precision: new latents, a text that is known"
    text = dict(encoder_hidden_states=torch.randn(1, 77, 2048).half(), time_ids=torch.randn(1, 6).half(),
                text_embeds=torch.randn(1, 1280).half())
    digest(text)
    rows = [torch.randn(1, 4, 128, 128).half() for _ in range(200)]
    begin = time.perf_counter()
    for x in rows: digest({**text, 'sample': x, 'timestep': 500})
    return (time.perf_counter() - begin)/len(rows)

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--quick', action='store_true', help='one small workload of one pipeline: does it run?')
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--out', default=str(root/'benchmarks/engines.json'))
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    n, rounds = (10, 1) if args.quick else (12, 2)
    apart = [[g]*n for g in (3., 5., 7.)]
    work = {'five cut-offs': cutoffs(n), 'twelve windows': windows(n), 'nothing to share': apart}
    if args.quick:
        SIZE.update(dict.fromkeys(SIZE, 32))
        work = {'five cut-offs': cutoffs(n)}
    names = list(LARGER)[:1] if args.quick else list(LARGER)
    rows = [measure(k, what, s, n, rounds) for k in names for what, s in work.items()]
    for r in rows:
        print(f"{r['name']}, {r['workload']}: {r['to_guided']:.2f} times faster than `guided` one by one, "
              f"{r['to_stock']:.2f} than the pipeline, {r['to_network']:.2f} of the network alone, "
              f"{r['to_least']:.2f} of the network and what the pipeline does besides")
    Path(args.out).write_text(
        json.dumps(
            dict(machine=machine(), torch=torch.__version__, diffusers=diffusers.__version__,
                 command='python benchmarks/engines.py', threads=args.threads, key_seconds=round(keys(), 6), rows=rows),
            indent=1) + '\n')

if __name__ == '__main__': main()
