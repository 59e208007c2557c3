"""Draw the test prompts of `scenes` by three samplers and five strengths, and keep what came true:

    python tools/scene_gates.py nbs/training/scenes_gates.jsonl --model scenes

One line for each sampler and strength, with the share of images in which everything is right and its 95% interval over
prompts, and in `right` a 1 or 0 for each image, prompt by prompt. `--samplers flow` is for a flow model. A run that is
broken off goes on; `--every 2 --noises 2` is a quarter of the work."""
import argparse, json
from pathlib import Path
import numpy as np
from cf_guidance.evaluation import mean_interval, clipped
from cf_guidance.pieces import get_sd_pieces, images_from_latents
from cf_guidance.sampling import sample_latents
from cf_guidance.worlds import scene_prompts, score_scenes
from cf_guidance.transforms import GuidanceTfm

SAMPLERS, GS = dict(ddim='ddim', euler='euler', dpm='dpm++_2m',
                    flow='FlowMatchEulerDiscreteScheduler'), (1., 3., 5., 7.5, 15.)
PARTS = 'shape', 'colour', 'material', 'count', 'relation', 'floor'

def draw(texts, seeds, g, sampler, pieces, steps, rows=100):
    "Images of all prompts, each with a seed"
    imgs, tfm = [], GuidanceTfm({'g': g})
    for i in range(0, len(texts), rows):
        latents = sample_latents(texts[i:i + rows], tfm, pieces, seeds=seeds[i:i + rows], steps=steps, sampler=sampler,
                                 progress=False)
        imgs.append(images_from_latents(latents, pieces))
    return np.concatenate(imgs)

KINDS = dict(one=('one', False), held=('one', True), two=('relation', False), two_held=('relation', True),
             three=('three', False))

def share(marks, which):
    "Share of the marks that are right, or nothing where there are none"
    some = [m for m, ok in zip(marks, which) if ok]
    return round(float(np.mean(some)), 4) if some else None

def line(prompts, noises, g, sampler, pieces, steps):
    "What came true of one sampler and strength"
    # a noise for each image, the same for all strengths and samplers
    jobs = [(p, noises*i + k) for i, p in enumerate(prompts) for k in range(noises)]
    imgs = draw([p.text for p, _ in jobs], [s for _, s in jobs], g, SAMPLERS[sampler], pieces, steps)
    marks = score_scenes(imgs, [p.text for p, _ in jobs])
    right, whose = np.array([m['all'] for m in marks], float), [p.text for p, _ in jobs]
    every = mean_interval(right, whose, bounds=(0, 1))
    res = dict(sampler=sampler, g=g, images=len(jobs), all=round(every.value, 4), lo=round(every.lo, 4),
               hi=round(every.hi, 4))
    res |= {name: share(right, [(p.kind, p.held_out) == part for p, _ in jobs]) for name, part in KINDS.items()}
    res |= {name: share([m.get(name) for m in marks], [name in m for m in marks]) for name in PARTS}
    return dict(res, clipped=round(float(clipped(imgs).mean()), 5), right=''.join(str(int(r)) for r in right))

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('out', type=Path)
    ap.add_argument('--model', default='scenes')
    ap.add_argument('--set', default='test')
    ap.add_argument('--every', type=int, default=1)
    ap.add_argument('--noises', type=int, default=4)
    ap.add_argument('--steps', type=int, default=20)
    ap.add_argument('--device', default='cpu')
    ap.add_argument('--samplers', nargs='+', choices=SAMPLERS, default=['ddim', 'euler', 'dpm'])
    a = ap.parse_args()
    pieces, prompts = get_sd_pieces(a.model, device=a.device), scene_prompts(a.set)[::a.every]
    same = dict(model=pieces.fingerprint, set=a.set, every=a.every, noises=a.noises, steps=a.steps)
    kept = [json.loads(l) for l in a.out.read_text().splitlines()] if a.out.exists() else []
    kept = [r for r in kept if {k: r.get(k) for k in same} == same]
    for sampler in a.samplers:
        for g in GS:
            if any((r['sampler'], r['g']) == (sampler, g) for r in kept): continue
            kept.append(dict(line(prompts, a.noises, g, sampler, pieces, a.steps), **same)); print(kept[-1], flush=True)
            a.out.write_text(''.join(json.dumps(r) + '\n' for r in kept))

if __name__ == '__main__': main()
