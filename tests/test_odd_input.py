"Whatever a parameter of a curve or a rule is given: it is taken, or refused by a `ValueError` that says what is wrong"
import inspect, math
import numpy as np, pytest, torch
from cf_guidance.schedules import CURVES, Schedule, Step, cosine
from cf_guidance.transforms import TRANSFORMS, guidance
from cf_guidance.transforms.signatures import options, parameters

ODD = {
    'an object': object(), 'a class': int, 'text': 'x', 'no text': '', 'bytes': b'x', 'no list': [], 'a dict': {},
    'three numbers': [1, 2, 3], 'an array': np.arange(3.), 'NaN': math.nan, 'infinity': math.inf, 'below': -math.inf,
    'huge': 10**400, 'the largest': 1e308, 'nothing': None, 'True': True, 'complex': 1j
}
RUN = dict(sigmas=(14., 5., 2., 1., .1), timesteps=(900., 700., 500., 300., 100.))
NEEDED = {'fn': lambda pos: pos, 'vals': (7, 7, 5, 3, 3), 'text': '7.5*pos', 'ratio': .5, 'switch': .5}
# these name the schedule
WORDS = 'must give finite numbers; ', 'a list schedule must have one value for each step'

def needed(make):
    "Values for the parameters that have no default"
    bare = {k: p for k, p in inspect.signature(make).parameters.items() if p.default is p.empty}
    known = {**NEEDED, 'sigma': 1. if make is CURVES['ngms'] else (.3, 5.)}
    return {k: cosine() if p.annotation is Schedule else known.get(k, 3) for k, p in bare.items()}

def judged(do, name, kind):
    "Nothing, or what is wrong with the way in which an odd value of the parameter `name` is refused"
    try: do()
    except ValueError as e:
        told = any(words in str(e) for words in (f'`{name}`', f"'{name}': ", *WORDS))
        return None if told else f'{name}, {kind}: not named: {e}'
    except Exception as e: return f'{name}, {kind}: {type(e).__name__}: {e}'

@pytest.mark.parametrize('name', CURVES)
def test_curve(name):
    make, wrong = CURVES[name], []
    plain = needed(make)
    assert len(make(**plain).values(5, **RUN)) == 5            # so that what is refused is the odd value
    for k in inspect.signature(make).parameters:
        for kind, val in ODD.items():
            wrong.append(judged(lambda: make(**{**plain, k: val}).values(5, **RUN), k, kind))
    assert [w for w in wrong if w] == []

def played(tfm):
    "Two steps of a run"
    u, t = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for i in range(2):
        step = Step(i, 5, **RUN, x=u + t, a=.5, b=.8, space='epsilon')
        given = dict(u=u, t=t, weak=(u + t)/2)
        need = tfm.needs(step)
        seen = {k: v if k in need else None for k, v in given.items() if k != 'weak' or k in need}
        tfm(seen.pop('u'), seen.pop('t'), idx=step, **seen)

@pytest.mark.parametrize('name', TRANSFORMS)
def test_rule(name):
    cls, wrong = TRANSFORMS[name], []
    played(guidance(name))
    for k in {**parameters(cls), **options(cls)}:
        for kind, val in ODD.items():
            wrong.append(judged(lambda: played(guidance(name, **{k: val})), k, kind))
    assert [w for w in wrong if w] == []
