"""Measure what methods of guidance do on the built-in models:

    python tools/evaluate.py curve nbs/tutorials/curve.jsonl      constant guidance, and a sampler that breaks down
    python tools/evaluate.py claims nbs/tutorials/claims.jsonl    schedules and norms of 2022
    python tools/evaluate.py methods nbs/tutorials/methods.jsonl  every transform, and the published schedules

Each line is a method in a cell: a model, a sampler and a number of steps. Every test prompt has noises of its own, the
same for all methods. Schedules and transforms are scaled to the displacement of a constant, on other prompts. A line that
is there is not made again, so a run that was broken off goes on, and a new transform costs its own lines alone; `--part
1/2` and `--part 2/2`, each with a file of its own, share the work, and `cat` puts the files together."""
import argparse, json
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
import numpy as np, torch
from cf_guidance.adapters.loading import load_pieces
from cf_guidance.evaluation import aside, clipped, displaced, displacement, match_strength, saturation, vendi
from cf_guidance.sampling import begin_run
from cf_guidance.schedules import CURVES, constant, lift
from cf_guidance.sweeps import DEFAULT_COS_PARAMS, Sweep, cos_harness, usual_g
from cf_guidance.sweeps.axes import own_seed
from cf_guidance.transforms import TRANSFORMS, GuidanceTfm
from cf_guidance.worlds import image_features, scene_prompts, score_scenes

SAMPLERS = dict(dpm='dpm++_2m', ddim='ddim', euler='euler', lms='lms', flow='FlowMatchEulerDiscreteScheduler')
USUAL, GS, FEW = ('dpm', 'ddim', 'euler'), (1, 1.5, 2, 3, 4, 5, 6, 7.5, 10, 15), (1, 3, 5, 7.5, 15)
NINE = dict(k_decay=(.8, .6), max_val=(10,), min_val=(3,), num_cycles=(1, 1.5), num_warmup_steps=(5, 10, 15))
NORMS = 'base_norm', 't_norm', 'full_norm'
SCHEDULES = ('linear', 'cosine', 'geometric', 'sigmoid', 'wang_linear', 'wang_invlinear', 'wang_cosine', 'wang_sine',
             'wang_v', 'wang_lambda', 'wang_clamp_linear', 'wang_pcs', 'cogvideox', 'beta_cfg', 'cfgpp')
ATTRIBUTES = 'count', 'shape', 'colour', 'material', 'relation', 'floor', 'all'
# a still image has one frame; with no text of its own `compose` is plain guidance
NOTHING = 'cfg', 'compose', 'frame_linear', 'frame_triangle'

@dataclass(frozen=True)
class Line:
    "A method in a cell"
    model:str
    sampler:str
    steps:int
    method:str # What it is called
    noises:int # Of each prompt
    tfm:str='cfg' # Name of the transform
    g:object=1. # Schedule before it is scaled
    like:float=None # The constant whose displacement it is to have; as it is by default
    @property
    def key(self): return dict(model=self.model, sampler=self.sampler, steps=self.steps, method=self.method)

@cache
def model(name):
    "A built-in model whose networks count in bfloat16; the loop counts in float32"
    return load_pieces(name, dtype='bfloat16', device='cpu')

def plain(model, sampler, steps, gs, noises):
    "Constant guidance"
    return [Line(model, sampler, steps, f'constant {g:g}', noises, g=float(g)) for g in gs]

def curve():
    "Constant guidance on every model, and LMS in 20 and 50 steps"
    cells = [plain('scenes', s, 20, GS, 4) for s in USUAL] + [plain('scenes', s, 50, FEW, 2) for s in USUAL]
    cells += [plain('scenes', 'lms', n, FEW, 2) for n in (20, 50)]
    cells += [plain('shapes', s, n, (3, 7.5), 2) for s, n in (('lms', 20), ('lms', 50), ('dpm', 20), ('ddim', 20))]
    cells += [plain('scenes-weak', s, 20, FEW, 2) for s in USUAL]
    return sum(cells, plain('scenes-flow', 'flow', 20, GS, 4) + plain('scenes-flow', 'flow', 50, FEW, 2))

def of_2022(steps):
    "The nine cosines in so many steps; their warm-up takes the same share of them"
    for name, vals in NINE.items():
        for v in vals:
            new = {name: round(v*steps/50) if name == 'num_warmup_steps' else v}
            yield f'{name}={v:g}', lift(cos_harness(new, dict(DEFAULT_COS_PARAMS, num_steps=steps)))

def claimed(model, sampler, steps, like, noises):
    "What was claimed in 2022, each with the displacement of a constant"
    line = partial(Line, model, sampler, steps, noises=noises, like=like)
    made = [line(f'{name} like {like:g}', g=g) for name, g in of_2022(steps)]
    return made + [line(f'{k} like {like:g}', tfm=k, g=usual_g(TRANSFORMS[k])) for k in NORMS]

def beside(lines, gs):
    "Those lines, after the constants of their cell with as many noises"
    at = lines[0]
    return plain(at.model, at.sampler, at.steps, gs, at.noises) + lines

def claims():
    "The claims at two strengths, in 20 steps and in 50, and on the two sisters"
    cells = [beside(claimed('scenes', s, 20, 3., 2) + claimed('scenes', s, 20, 7.5, 2), (2, 3, 4, 5, 7.5, 10))
             for s in USUAL]
    cells += [beside(claimed('scenes-weak', s, 20, 3., 2), (2, 3, 4, 5)) for s in USUAL]
    cells += [beside(claimed('scenes', s, 50, 3., 1), (2, 3, 4, 5)) for s in USUAL]
    return sum(cells, beside(claimed('scenes-flow', 'flow', 20, 3., 2), (2, 3, 4, 5)))

def norm_g(name): return usual_g(TRANSFORMS[name]) if name in TRANSFORMS else 7.5

def windows():
    "Guidance at 7.5 in some of the noise levels, the ones between .6 and 5, and the two halves"
    limits = {'window, middle': (.6, 5.), 'window, not late': (.6, 100.), 'window, not early': (0., 5.)}
    return {k: constant(7.5).within(lo_hi) for k, lo_hi in limits.items()}

@cache
def goes_aside(name):
    "Whether over half of a transform's push is at right angles to `t - u`, as published"
    return float(aside(told('scenes', 'dpm', 20, TRANSFORMS[name]({'g': norm_g(name)}))).mean()) > .5

def methods(like=5.):
    "Every transform and published schedule with the displacement of a constant; those that go aside as curves"
    known = [k for k in TRANSFORMS if k not in NOTHING]
    made = [(k, dict(tfm=k, g=norm_g(k))) for k in known if not goes_aside(k)]
    made += [(k, dict(g=CURVES[k]())) for k in SCHEDULES] + [(k, dict(g=g)) for k, g in windows().items()]
    lines = [Line('scenes', s, 20, k, 2 if s == 'dpm' else 1, like=like, **how) for s in USUAL for k, how in made]
    for k in filter(goes_aside, known):
        gs = [norm_g(k)*f for f in (.5, 1., 2.)]
        lines += [Line('scenes', 'dpm', 20, f'{k} at {g:g}', 2, tfm=k, g=g) for g in gs]
    same = plain('scenes', 'dpm', 20, (1, 1.5, 2, 3, 4, 5, 7.5, 10), 2)
    return same + sum([plain('scenes', s, 20, (3, 5, 7.5), 1) for s in USUAL[1:]], lines)

STUDIES = dict(curve=curve, claims=claims, methods=methods)

def prompts_of(name, part):
    "Prompts of the world that a model draws"
    if not name.startswith('shapes'): return [p.text for p in scene_prompts(part)]
    from cf_guidance.worlds import prompt_set
    return [p.text for p in prompt_set(part)[::2]]

def dev(name):
    "Sixteen prompts to choose by, each with a noise of its own"
    few = prompts_of(name, 'dev')[::6][:16]
    return few, [own_seed(p, 1) for p in few]

def told(name, sampler, steps, tfm):
    "The pushes of a transform"
    texts, seeds = dev(name)
    return displaced(tfm, texts, model(name), seeds=seeds, steps=steps, sampler=SAMPLERS[sampler])

@cache
def constant_displacement(name, steps, like):
    return float(displacement(told(name, first_sampler(name), steps, GuidanceTfm({'g': like}))).mean())

def first_sampler(name): return 'flow' if 'flow' in name else 'dpm'

MATCHED = {}

def matched(line):
    "The schedule of a line; one that is to be like a constant is scaled in the first sampler of its model"
    if line.like is None: return line.g
    key = line.model, line.steps, line.tfm, line.method
    if key not in MATCHED:
        texts, seeds = dev(line.model)
        tfm, stays = TRANSFORMS[line.tfm]({'g': line.g}), 0. if norm_g(line.tfm) < 1 else 1.
        how = dict(seeds=seeds, steps=line.steps, sampler=SAMPLERS[first_sampler(line.model)])
        target = constant_displacement(line.model, line.steps, line.like)
        MATCHED[key] = match_strength(tfm, target, texts, model(line.model), by='displacement', stays=stays, tol=.03,
                                      within=(1/40, 40), **how).schedules['g']
    return MATCHED[key]

def images(line, g, texts):
    "The images of a line, prompt by prompt and noise by noise"
    sweep = Sweep(model(line.model), prompt=texts, seed=list(range(1, line.noises + 1)), own_noise=True,
                  schedule={'': g}, transform=line.tfm, sampler=SAMPLERS[line.sampler], steps=line.steps)
    return [c.image for c in sweep.run(progress=False, batch_size=100).cells]

def scored(name, made, texts):
    "For each attribute a text of 1, 0 and, where the prompt does not ask for it, a dot"
    if name.startswith('shapes'): from cf_guidance.worlds.verifier import score
    else: score = score_scenes
    marks = score(made, texts)
    each = lambda k: ''.join(str(int(m[k])) if k in m else '.' for m in marks)
    return {k: each(k) for k in ATTRIBUTES if any(k in m for m in marks)}

def variety(made, noises):
    "The Vendi score among the noises of each prompt"
    feats = image_features(made)
    return [round(float(vendi(feats[i:i + noises])), 4) for i in range(0, len(made), noises)]

def values(line, tfm):
    "What `g` is at each step"
    steps = begin_run(model(line.model), SAMPLERS[line.sampler], line.steps).steps
    return [round(float(tfm.scheduler('g', step)), 4) for step in steps]

def measure(line):
    "What came of a line"
    texts = prompts_of(line.model, 'test')
    try: g = matched(line)
    except ValueError as e: return dict(line.key, failed=str(e))
    tfm = TRANSFORMS[line.tfm]({'g': g})
    pushed = told(line.model, line.sampler, line.steps, tfm)
    made = images(line, g, texts)
    figures = dict(displacement=displacement(pushed).mean(), aside=aside(pushed).mean(), clipped=clipped(made).mean(),
                   saturation=saturation(made).mean())
    res = dict(line.key, noises=line.noises, fingerprint=model(line.model).fingerprint,
               g=values(line, tfm),
               **{k: round(float(v), 5) for k, v in figures.items()},
               **scored(line.model, made, [p for p in texts for _ in range(line.noises)]))
    return dict(res, vendi=variety(made, line.noises)) if line.noises > 1 else res

def name_of(row): return tuple(row[k] for k in ('model', 'sampler', 'steps', 'method'))

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('what', choices=STUDIES); ap.add_argument('out', type=Path)
    ap.add_argument('--part', default='1/1', help='which of how many parts of the methods')
    ap.add_argument('--most', type=int, default=None, help='make at most so many lines')
    a = ap.parse_args()
    part, parts = map(int, a.part.split('/'))
    lines = STUDIES[a.what]()
    names = [*dict.fromkeys(line.method for line in lines)]
    mine = [line for line in lines if names.index(line.method) % parts == part - 1]
    kept = [json.loads(s) for s in a.out.read_text().splitlines()] if a.out.exists() else []
    there = {name_of(r) for r in kept}
    for line in [line for line in mine if name_of(line.key) not in there][:a.most]:
        with torch.inference_mode(): row = measure(line)
        with a.out.open('a') as f: f.write(json.dumps(row) + '\n')
        print(*name_of(row), row.get('failed') or f"{np.mean([c == '1' for c in row['all']]):.3f}", flush=True)

if __name__ == '__main__': main()
