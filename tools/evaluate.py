"""Draw a set of prompts by many methods and keep one row for each image:

    python tools/evaluate.py curve nbs/tutorials/curve        constant guidance, ten strengths
    python tools/evaluate.py claims nbs/tutorials/claims      schedules and norms of 2022, each as strong as a constant
    python tools/evaluate.py methods nbs/tutorials/methods    every transform as published, and the published schedules

Writes OUT.csv.gz, a row for each image, and OUT.json, what needs all images of a method at once. What is drawn is
kept in a work folder, so a run that is broken off goes on; `--part 1/2` and `--part 2/2` share the work of two processes."""
import argparse, csv, gzip, io, json
from pathlib import Path
import numpy as np, torch
from cf_guidance.evaluation import metrics
from cf_guidance.sweeps import usual_g
from cf_guidance.transforms import CURVES, TRANSFORMS
from cf_guidance.pieces import get_sd_pieces, images_from_latents
from cf_guidance.sampling import begin_run, sample_latents
from cf_guidance.schedules import constant, lift
from cf_guidance.evaluation import Effective, match_strength
from cf_guidance.sweeps import DEFAULT_COS_PARAMS, cos_harness
from cf_guidance.transforms import BaseNormGuidance, FullNormGuidance, GuidanceTfm, TNormGuidance
from cf_guidance.worlds import features, ideal, prompt_set
from cf_guidance.worlds.verifier import score

SCHEDULES = ('linear', 'cosine', 'geometric', 'sigmoid', 'wang_linear', 'wang_invlinear', 'wang_cosine', 'wang_sine',
             'wang_v', 'wang_lambda', 'wang_clamp_linear', 'wang_pcs', 'cogvideox', 'beta_cfg', 'cfgpp')
# their `g` is no strength beside the usual 7.5
OTHER_UNIT = 'autoguidance', 'icg', 'tsg', 'power_law', 'beta_norm', 'frame_linear', 'frame_triangle'
GS = 1, 1.5, 2, 3, 4, 5, 6, 7.5, 10, 15
NINE = {
    f'{k}={v}': {k: v}
    for k, vs in dict(k_decay=[.8, .6], max_val=[10], min_val=[3], num_cycles=[1, 1.5], num_warmup_steps=[5, 10, 15
                                                                                                          ]).items()
    for v in vs
}
ASKED = 'count', 'shape', 'colour', 'relation', 'style', 'background', 'all'

def claims(at, pieces, prompts, steps):
    "Constant guidance of `at`, the nine cosines and three norms of 2022, each scaled to the same effective guidance on `prompts`"
    shapes = {
        'constant': constant(at),
        **{name: lift(cos_harness(new, dict(DEFAULT_COS_PARAMS, num_steps=steps)))
           for name, new in NINE.items()}
    }
    made = {name: GuidanceTfm({'g': s.with_mean(at)}) for name, s in shapes.items()}
    for name, tfm, stays in (('base_norm', BaseNormGuidance({'g': at}), 1), ('t_norm', TNormGuidance({'g': at/50}), 0),
                             ('full_norm', FullNormGuidance({'g': at/50}), 0)):
        with torch.autocast('cpu', torch.bfloat16):
            made[name] = match_strength(tfm, at, prompts, pieces, stays=stays, within=(.2, 8), tol=.02*at,
                                        seeds=range(len(prompts)), steps=steps)
    return {f'{name} @ {at:g}': tfm for name, tfm in made.items()}

def methods(at, mean):
    "Every transform as published with `g` at `at`, and the published schedules and windows with their mean or height at `mean`"
    made = {f'constant @ {g:g}': GuidanceTfm({'g': g}) for g in (mean, at)}
    for name, cls in TRANSFORMS.items():
        if name == 'cfg': continue
        # the norms of 2022 count another way
        g = at/50 if usual_g(cls) < 1 else usual_g(cls) if name in OTHER_UNIT else at
        made[f'{name} @ {g:g}'] = cls({'g': g})
    for name in SCHEDULES: made[f'{name} @ {mean:g}'] = GuidanceTfm({'g': CURVES[name]().with_mean(mean)})
    for name, window in (('window, middle', (.6, 5.)), ('window, not late', (.6, 100.)), ('window, not early', (0.,
                                                                                                                5.))):
        made[f'{name} @ {mean:g}'] = GuidanceTfm({'g': constant(mean).within(window)})
    return made

def draw(tfm, pieces, prompts, seeds, steps, rows=100):
    "Images and effective guidance, prompt by prompt and seed by seed"
    jobs, imgs, eff, course = [(p, s) for p in prompts for s in seeds], [], [], begin_run(pieces, None, steps)
    for i in range(0, len(jobs), rows):
        texts, nums = zip(*jobs[i:i + rows])
        seen = Effective(tfm)
        plain = type(tfm) is GuidanceTfm         # its strength is its mean, and steps at 1 need no `u`
        # the network alone; the loop stays in float32
        with torch.autocast('cpu', torch.bfloat16):
            latents = sample_latents(list(texts), tfm if plain else seen, pieces, seeds=list(nums), steps=steps,
                                     progress=False)
        imgs.append(images_from_latents(latents.float(), pieces))
        eff += [float(np.mean([tfm.scheduler('g', step)
                               for step in course.steps]))]*len(nums) if plain else seen.mean.tolist()
    return np.concatenate(imgs), np.array(eff)

def bits(row): return {k: '' if k not in row else int(row[k]) for k in ASKED}

def rows_of(name, prompts, seeds, imgs, eff):
    "One row for each image"
    marks = score(imgs, [p for p in prompts for _ in seeds])
    pixels = {k: getattr(metrics, k)(imgs) for k in ('saturation', 'contrast', 'clipped')}
    for i, mark in enumerate(marks):
        yield dict(method=name, prompt=i//len(seeds), seed=seeds[i % len(seeds)], **bits(mark),
                   effective=round(float(eff[i]), 4), **{k: round(float(v[i]), 5)
                                                         for k, v in pixels.items()})

def reference(prompts, each):
    "Features of scenes that do what the prompts ask; what they leave open is drawn by lot"
    rng = np.random.default_rng(5)
    return features([ideal(p, rng, 32) for p in prompts for _ in range(each)])

def summary(imgs, prompts, seeds, real):
    "Distances to the reference and the diversity of each prompt's seeds, with their intervals"
    f, whose = features(imgs), [k for k in range(len(prompts)) for _ in seeds]
    figures = {**metrics.distances(f, real, whose), 'vendi': metrics.diversity(f, whose)}
    return {k: [round(x, 6) for x in (e.value, e.lo, e.hi)] for k, e in figures.items()}

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('what', choices=('curve', 'claims', 'methods')); ap.add_argument('out', type=Path)
    ap.add_argument('--model', default='shapes')
    ap.add_argument('--set', default='test')
    ap.add_argument('--every', type=int, default=1, help='take every n-th prompt')
    ap.add_argument('--seeds', type=int, default=4)
    ap.add_argument('--steps', type=int, default=50)
    ap.add_argument('--at', default='3,7.5', help='strengths of `claims`')
    ap.add_argument('--work', type=Path, default=Path('runs/evaluate')); ap.add_argument('--part', default='1/1')
    a = ap.parse_args()
    pieces, prompts, seeds = get_sd_pieces(a.model, device='cpu'), [p.text for p in prompt_set(a.set)[::a.every]
                                                                    ], list(range(1, a.seeds + 1))
    ats = [float(at) for at in a.at.split(',')]
    if a.what == 'curve': tried = {f'constant @ {g:g}': GuidanceTfm({'g': g}) for g in GS}
    elif a.what == 'methods': tried = methods(max(ats), min(ats))
    else:
        few = [p.text for p in prompt_set('dev')[::10]]
        tried = {k: v for at in ats for k, v in claims(at, pieces, few, a.steps).items()}
    a.work.mkdir(parents=True, exist_ok=True)
    part, parts = map(int, a.part.split('/'))
    size = f'{len(prompts)}x{len(seeds)}x{a.steps}'
    key = lambda name: a.work/f'{pieces.fingerprint}-{a.set}-{size}-{name.replace(" ", "")}.npz'
    for name in list(tried)[part - 1::parts]:
        if key(name).exists(): continue
        imgs, eff = draw(tried[name], pieces, prompts, seeds, a.steps)
        np.savez(key(name).with_suffix('.tmp.npz'), imgs=imgs, eff=eff)
        key(name).with_suffix('.tmp.npz').rename(key(name))
        print(name, f"{np.mean([r['all'] for r in score(imgs, [p for p in prompts for _ in seeds])]):.3f}", flush=True)
    if any(not key(n).exists() for n in tried): return
    real, rows, said = reference(prompts, a.seeds), [], {}
    for name in tried:
        with np.load(key(name)) as d: imgs, eff = d['imgs'], d['eff']
        rows += rows_of(name, prompts, seeds, imgs, eff); said[name] = summary(imgs, prompts, seeds, real)
    text = io.StringIO(); w = csv.DictWriter(text, rows[0], lineterminator='\n'); w.writeheader(); w.writerows(rows)
    a.out.with_suffix('.csv.gz').write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    about = dict(
        command=
        f'tools/evaluate.py {a.what} --model {a.model} --set {a.set} --every {a.every} --seeds {a.seeds} --steps '
        f'{a.steps}',
        model=pieces.fingerprint, sampler='lms', network='bfloat16')
    a.out.with_suffix('.json').write_text(json.dumps(dict(about=about, figures=said), indent=1) + '\n')

if __name__ == '__main__': main()
