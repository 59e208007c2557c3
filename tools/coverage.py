"""How often intervals hold the truth and tests are wrong, on made-up experiments whose truth is known. The rows
in nbs/evaluation/coverage.csv are made by

    python tools/coverage.py nbs/evaluation/coverage.csv"""
import csv, os, sys
import numpy as np
from scipy.special import expit
from cf_guidance.evaluation.metrics import frechet, kid
from cf_guidance.evaluation.statistics import left_out, spread
from cf_guidance.evaluation.two_way import interval_by_design

# how much scores vary by prompt, by seed, and by the image
NORMAL = {'normal, own': (1, 0, 1), 'skewed, own': (1, 0, 1), 'normal, prompts vary': (1, .1, 1),
          'normal, both vary': (1, .3, 1), 'normal, seeds vary': (.2, 1, .5)}
# of two methods whose answers are right or wrong: log odds of the baseline, what the other adds, variation by seed
YES_NO = {'right or wrong, few differ, own': (3, .3, 0), 'right or wrong, own': (1, .5, 0),
          'right or wrong, few differ, crossed': (3, .3, .5), 'right or wrong, crossed': (1, .5, 1)}
OWN = [c for c in (*NORMAL, *YES_NO) if c.endswith('own')]

def drawn(case, prompts, seeds, rng):
    "Scores of one experiment, a table (prompts, seeds)"
    if case in NORMAL:
        p, s, e = NORMAL[case]
        y = rng.exponential(size=(prompts, 1)) - 1 if case.startswith('skewed') else rng.normal(size=(prompts, 1))
        return p*y + s*rng.normal(size=(1, seeds)) + e*rng.normal(size=(prompts, seeds))
    base, more, luck = YES_NO[case]
    hard, noise = rng.normal(size=(prompts, 1)), luck*rng.normal(size=(2, 1, seeds))
    odds = base + hard + noise + np.array([more, 0]).reshape(2, 1, 1)
    a, b = rng.random((2, prompts, seeds)) < expit(odds)
    return a.astype(float) - b

def truth(case):
    "The true mean"
    if case in NORMAL: return 0.
    base, more, luck = YES_NO[case]
    z, w = np.polynomial.hermite_e.hermegauss(80)                       # of a normal variable, by Gauss's rule
    odds = np.sqrt(1 + luck*luck)*z
    return float(((expit(base + more + odds) - expit(base + odds))*w).sum()/w.sum())

def scores(case, y):
    "The table by prompt and seed; seeds are numbers of their own where they are not shared"
    own = case in OWN
    return {(p, (p, s) if own else s): y[p, s] for p in range(len(y)) for s in range(y.shape[1])}

def tried(what, case, prompts, seeds, tries, seed=0):
    "One row: the share of experiments whose interval held the truth, and the mean width"
    rng, true = np.random.default_rng([seed, prompts, seeds, sum(map(ord, case))]), truth(case)
    how = dict(bounds=None if case in NORMAL else (-1, 1), design='own' if what == 'tempting' else '')
    found = [interval_by_design(scores(case, drawn(case, prompts, seeds, rng)), **how) for _ in range(tries)]
    share = np.mean([e.lo <= true <= e.hi for e in found])
    return dict(what=what, case=case, design='own' if case in OWN else 'crossed', prompts=prompts, seeds=seeds,
                tries=tries, share=round(float(share), 4),
                width=round(float(np.mean([e.hi - e.lo for e in found])), 4))

def sets(apart, prompts, n, rng):
    "Features of so many sets, whose prompts have means of their own"
    for _ in range(n):
        x = rng.normal(size=(prompts, 1, 2)) + [apart, 0] + rng.normal(size=(prompts, 3, 2))
        yield x.reshape(-1, 2)

def distance(name, apart, prompts, tries, seed=0):
    "One row: the share of sets whose distance to a reference had an interval that held the truth"
    rng, f = np.random.default_rng([seed, prompts, round(10*apart), len(name)]), dict(kid=kid, frechet=frechet)[name]
    real, names = np.sqrt(2)*rng.normal(size=(150, 2)), np.repeat(range(prompts), 3)
    true = np.mean([f(made, real) for made in sets(apart, prompts, 5*tries, rng)])
    found = [spread([left_out(lambda rows: f(made[rows], real), names)], long_tail=True)
             for made in sets(apart, prompts, tries, rng)]
    share, width = np.mean([e.lo <= true <= e.hi for e in found]), np.mean([e.hi - e.lo for e in found])
    return dict(what='distance', case=f'{name}, {apart:g} apart', design='own', prompts=prompts, seeds=3, tries=tries,
                share=round(float(share), 4), width=round(float(width), 4))

def distances(tries=400):
    for name in ('kid', 'frechet'):
        for apart in (0, .5, 1.5):
            for prompts in (10, 20, 50, 200): yield distance(name, apart, prompts, tries)

def rows(tries=2000, few=300):
    "All cases; those of scores with bounds take a while, and are tried less often"
    for case in (*NORMAL, *YES_NO):
        for seeds in [2] if case in OWN else [2, 4]:
            for prompts in (10, 20, 50, 200):
                yield tried('interval', case, prompts, seeds, tries if case in NORMAL else few)
    for prompts in (10, 20, 50, 200): yield tried('tempting', 'normal, both vary', prompts, 2, tries)
    yield from distances()

def main(path):
    part = f'{path}.part'
    with open(part, 'w', newline='') as file:
        made = None
        for row in rows():
            made = made or csv.DictWriter(file, row)
            if not file.tell(): made.writeheader()
            made.writerow(row)
            file.flush()
            print(*row.values())
    os.replace(part, path)

if __name__ == '__main__': main(sys.argv[1])
