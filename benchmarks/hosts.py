"What a limited interval saves in a stock pipeline: `python benchmarks/hosts.py` rewrites hosts.json, in about 5 minutes on two cores"
import argparse, json, statistics, sys
from pathlib import Path

root = Path(__file__).parent.parent
sys.path[:0] = [str(root), str(root/'benchmarks')]
import diffusers, torch
from cf_guidance.adapters import as_pipeline, guided
from cf_guidance.pieces import get_sd_pieces
from cf_guidance.transforms import GuidanceTfm
from sharing import G, machine, random_pieces, timed

WAYS = 'own', 'hosted', 'interval', 'network', 'network in the interval'

def within(n, lo=.2, hi=.6):
    "Guidance in the middle two fifths of the steps, and `t` alone elsewhere"
    return [G if lo*n <= k < hi*n else 1. for k in range(n)]

@torch.no_grad()
def network(pieces, rows, size):
    "The network on so many rows at each step, and nothing else"
    conf, words = pieces.unet.config, pieces.tokenizer.model_max_length
    x, emb = torch.randn(2, conf.in_channels, size//pieces.factor,
                         size//pieces.factor), torch.randn(2, words, pieces.text_encoder.config.hidden_size)
    for n in rows: pieces.unet(x[:n], 500, encoder_hidden_states=emb[:n])

def measure(name, pieces, n, rounds, size):
    "One row: five ways in turn, `rounds` times"
    pipe, sched, rows = as_pipeline(pieces), within(n), {}
    kw = dict(num_inference_steps=n, height=size, width=size, output_type='latent', guidance_scale=G)
    def draw(): return pipe('a red star', generator=torch.Generator().manual_seed(1), **kw).images
    def hosted(way, g):
        with guided(pipe, GuidanceTfm({'g': g})) as host: out = draw()
        rows[way] = host.made
        return out
    # the first step tells which half is which
    plan = [2 if g != 1 or k == 0 else 1 for k, g in enumerate(sched)]
    ways = dict(
        zip(WAYS, (draw, lambda: hosted('hosted', G), lambda: hosted('interval', sched),
                   lambda: network(pieces, [2]*n, size), lambda: network(pieces, plan, size))))
    if rounds > 1:                                          # once for nothing, where time counts
        for f in ways.values(): f()
    secs, out = {way: [] for way in WAYS}, {}
    for _ in range(rounds):
        for way, f in ways.items(): took, out[way] = timed(f); secs[way].append(took)
    assert torch.equal(out['own'], out['hosted']) and not torch.equal(out['own'], out['interval']) and rows == {
        'hosted': 2*n, 'interval': sum(plan)
    }
    ratio = lambda a, b: round(statistics.median(x/y for x, y in zip(secs[a], secs[b])), 3)
    return dict(name=name, steps=n, guided=sum(g != 1 for g in sched), size=size, rows=rows,
                seconds={k: [round(s, 4)
                             for s in v]
                         for k, v in secs.items()}, hosted=ratio('hosted', 'own'), interval=ratio('interval', 'own'),
                share=ratio('network', 'own'), share_in_interval=ratio('network in the interval', 'interval'))

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--quick', action='store_true', help='a few steps of one small model')
    p.add_argument('--threads', type=int, default=torch.get_num_threads())
    p.add_argument('--out', default=str(root/'benchmarks/hosts.json'))
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    small = get_sd_pieces('shapes', device='cpu')
    rows = [measure('built-in model', small, 10, 1 if args.quick else 15, small.size)]
    if not args.quick: rows.append(measure("U-Net of Stable Diffusion 1.5's size", random_pieces(True), 5, 3, 256))
    for r in rows:
        print(
            f"{r['name']}: hosted {r['hosted']:.2f} of the pipeline's own time; {r['guided']} of {r['steps']} steps "
            f"guided {r['interval']:.2f}; the network is {r['share']:.0%}, and {r['share_in_interval']:.0%}"
        )
    Path(args.out).write_text(
        json.dumps(
            dict(machine=machine(), torch=torch.__version__, diffusers=diffusers.__version__,
                 command='python benchmarks/hosts.py', threads=args.threads, rows=rows), indent=1) + '\n')

if __name__ == '__main__': main()
