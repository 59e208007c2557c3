"What `compile='onnx'` saves of whole sweeps: `python benchmarks/compiled.py` rewrites compiled.json, in about 5 minutes on two cores"
import argparse, json, os, statistics, sys, tempfile, time
from pathlib import Path

root = Path(__file__).parent.parent
sys.path[:0] = [str(root), str(root/'benchmarks')]
import diffusers, numpy as np, onnxruntime, torch
from PIL import Image
from sharing import far, machine, timed, windows
from cf_guidance.cli.options import experiments
from cf_guidance.pieces import get_sd_pieces
from cf_guidance.schedules import constant, cosine
from cf_guidance.sweeps import Sweep
from cf_guidance.transforms import guidance
from cf_guidance.widgets.live import Remembered, film
from cf_guidance.worlds.scene_words import scene_prompts

WAYS = None, 'onnx'
# of the time of PyTorch's own network, whole: from the call to the last file
TARGETS = {'the ten of 2022': .65, 'twelve windows': .65, "the explorer's image": .6, 'an evaluation': .65}

def swept(**axes):
    "A sweep into a folder of its own, with PNGs, metadata and page"
    def make(pieces):
        with tempfile.TemporaryDirectory() as d:
            sweep = Sweep(**axes).run(d, pieces, progress=False)
            return [np.asarray(Image.open(c.file)) for c in sweep.cells], (sweep.made, sweep.made + sweep.saved)
    return make

def explored(steps):
    "What the explorer does when a slider rests: the image of a schedule, with every step's prediction kept"
    def make(pieces):
        net = Remembered()
        made = film(pieces.prompt, guidance('cfg', g=cosine(9, 3)), pieces, steps=steps, network=net)
        return [np.asarray(made.image)], (net.made, 2*len(made.steps))
    return make

def workloads(quick):
    n, few = (10, 4) if quick else (50, 16)
    prompts = [p.text for p in scene_prompts('test')][:few]
    ten = {e['title']: e['schedule'] for e in experiments(steps=50)}
    if quick: ten = dict([*ten.items()][:2])
    return {
        'the ten of 2022': swept(schedule=ten, steps=50),
        'twelve windows': swept(schedule=dict(enumerate(windows(n))), steps=n),
        "the explorer's image": explored(n//2 if quick else 20),
        'an evaluation': swept(prompt=prompts, seed=[1, 2, 3, 4], schedule=[constant(7.5)],
                               steps=n//5 if quick else 20)}

def clocked(f):
    "Seconds by the clock, seconds of the processor, and what came"
    begin = time.process_time()
    took, res = timed(f)
    return took, time.process_time() - begin, res

def measure(name, make, models, threads, rounds):
    "One row: both ways in turn, `rounds` times"
    torch.set_num_threads(threads)
    secs, cpu, images, calls = {way: [] for way in WAYS}, {way: [] for way in WAYS}, {}, {}
    for pieces in models.values(): make(pieces)                     # the form of its calls is read or exported
    for way in [*models]*rounds:
        took, worked, (images[way], calls[way]) = clocked(lambda: make(models[way]))
        secs[way].append(round(took, 3)), cpu[way].append(round(worked, 3))
    assert calls[None] == calls['onnx'], calls
    gaps = [far(a, b) for a, b in zip(images[None], images['onnx'])]
    assert max(gaps) <= 1, f'{name}: an image is {max(gaps)} of 255 away'
    ratio = lambda by: round(min(by['onnx'])/min(by[None]), 3)
    named = lambda by: dict(eager=by[None], onnx=by['onnx'])
    row = dict(name=name, threads=threads, images=len(gaps), made=calls[None][0], alone=calls[None][1], gap=max(gaps),
               differ=sum(g > 0 for g in gaps), target=TARGETS[name], seconds=named(secs), cpu=named(cpu),
               ratio=ratio(secs), cpu_ratio=ratio(cpu),
               median=round(statistics.median(b/a for a, b in zip(*secs.values())), 3))
    print(f"{name}, {threads} thread{'s'*(threads > 1)}: {row['ratio']:.2f} of the time, {row['cpu_ratio']:.2f} of the "
          f"processor's (the best of {rounds} each; median of the pairs {row['median']:.2f}; target {row['target']}), "
          f"at most {row['gap']} of 255 away", flush=True)
    return row

def first_call(pieces):
    "Seconds of the first call of a form"
    net = pieces.unet
    x, words = torch.randn(2, net.config.in_channels, *[net.config.sample_size]*2), torch.randn(2, 16, 128)
    with torch.no_grad(): return round(timed(lambda: net(x, 500, encoder_hidden_states=words))[0], 3)

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--quick', action='store_true', help='few steps, few images, one round: does it run?')
    p.add_argument('--threads', type=int, nargs='+', default=[2, 1], help='threads of torch and of ONNX Runtime')
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--only', default='', help='the workloads whose names begin so')
    p.add_argument('--out', type=Path, default=Path(__file__).with_suffix('.json'), help='where the table goes')
    a = p.parse_args()
    torch.set_num_threads(a.threads[0])
    with tempfile.TemporaryDirectory() as home:
        os.environ['CF_GUIDANCE_CACHE'] = home
        load = lambda way: get_sd_pieces('scenes', device='cpu', compile=way)
        took = dict(export=first_call(load('onnx')), open=first_call(load('onnx')), eager=first_call(load(None)))
        mib = round(sum(p.stat().st_size for p in Path(home).rglob('*.onnx'))/2**20, 1)
        models = {way: load(way) for way in WAYS}
        rows = [measure(name, make, models, n, 1 if a.quick else a.rounds)
                for n in a.threads for name, make in workloads(a.quick).items() if name.startswith(a.only)]
    res = dict(machine=machine(), torch=torch.__version__, diffusers=diffusers.__version__,
               onnxruntime=onnxruntime.__version__, command='python benchmarks/compiled.py' + ' --quick'*a.quick,
               first_call=took, mib=mib, rows=rows)
    if not a.only: a.out.write_text(json.dumps(res, indent=1) + '\n')

if __name__ == '__main__': main()
