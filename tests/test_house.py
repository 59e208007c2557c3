"The rooms of the package: who imports whom, what is there whatever came first, and what was written before there were rooms"
import ast, json, pickle, re, shutil, statistics
from pathlib import Path
import pytest

root = Path(__file__).parent.parent
ROOMS = ('rooms', 'checks', 'schedules', 'pieces', 'plots', 'transforms', 'worlds', 'sampling', 'records', 'adapters',
         'sweeps', 'evaluation', 'widgets', 'cli', 'all')                      # in the order in which data flows
FACES = [r for r in ROOMS if (root/'cf_guidance'/r).is_dir()]
MODULES = {
    '.'.join(p.relative_to(root/'cf_guidance').with_suffix('').parts): p
    for p in (root/'cf_guidance').rglob('*.py')
    if p.name != '_modidx.py' and p.parent.name != 'cf_guidance' or p.stem in ROOMS
}

def imports(name):
    "Module and name of each import from this package in a module, those inside of functions too"
    package = name.split('.')[:-1]
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            for a in node.names:
                if a.name.startswith('cf_guidance.'): yield a.name.removeprefix('cf_guidance.'), None
        if not isinstance(node, ast.ImportFrom): continue
        if node.level: base = [*package[:len(package) - node.level + 1], *(node.module or '').split('.')]
        elif (node.module or '').split('.')[0] == 'cf_guidance': base = node.module.split('.')[1:]
        else: continue
        base = '.'.join(p for p in base if p)
        for a in node.names:
            inner = f'{base}.{a.name}' if base else a.name
            yield (inner, None) if inner in MODULES else (base, a.name)

GRAPH = {name: set(imports(name)) for name in MODULES}

def face(name): return name.removesuffix('.__init__')

def test_rooms_import_those_before_them():
    room = lambda name: name.split('.')[0]
    wrong = [(a, b) for a, to in GRAPH.items() for b, _ in to if b and ROOMS.index(room(b)) > ROOMS.index(room(a))]
    assert wrong == []

def test_no_private_name_of_another_module():
    private = lambda name: name and name.startswith('_') and name != '__version__'
    assert [(a, b, name) for a, to in GRAPH.items() for b, name in to if private(name)] == []

def words(tree):
    "The lines of docstrings, and those inside of strings that go over several lines"
    kinds, res = (ast.Module, ast.FunctionDef, ast.ClassDef), set()
    for n in ast.walk(tree):
        text = n.body[0] if isinstance(n, kinds) and ast.get_docstring(n) else n
        long = text is not n or isinstance(n, (ast.Constant, ast.JoinedStr)) and n.end_lineno > n.lineno
        if long: res |= set(range(text.lineno, text.end_lineno + 1))
    return res

def wide(code, most):
    lines, inside = code.splitlines(), words(ast.parse(code))
    return [k for k, line in enumerate(lines, 1) if len(line) > most and k not in inside and line[:2] != '#|']

def test_width():
    "Exported code fits into 100 columns, docstrings aside, and every line of code into 120"
    found = []
    for nb in sorted((root/'nbs').rglob('*.ipynb')):
        for cell in json.loads(nb.read_text())['cells']:
            if cell['cell_type'] != 'code': continue
            code = re.sub(r'^[%!].*$', 'pass', ''.join(cell['source']), flags=re.M)
            found += [(nb.name, cell['id'], k) for k in wide(code, 100 if code.startswith('#| export') else 120)]
    for p in [f for d in ('tests', 'tools', 'benchmarks') for f in (root/d).rglob('*.py')]:
        found += [(p.name, k) for k in wide(p.read_text(), 120)]
    assert found == []

def test_functions_breathe():
    "The statements and expressions of a function: 120 at most in its body, 180 with its parameters, in the middle 32"
    nodes = [n for p in MODULES.values() for n in ast.walk(ast.parse(p.read_text()))]
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef)]
    size = lambda *parts: sum(isinstance(n, (ast.stmt, ast.expr)) for part in parts for n in ast.walk(part))
    dense = {f.name: size(f) for f in functions if size(*f.body) > 120 or size(f) > 180}
    assert dense == {} and statistics.median(size(f) for f in functions) <= 32

def test_one_recorder():
    "What listens to a transform is one class, and one function writes that something has no effect"
    from cf_guidance.evaluation import Effective
    from cf_guidance.sampling import Traced
    from cf_guidance.transforms import Recorded
    for cls in (Traced, Effective): assert issubclass(cls, Recorded) and '__call__' not in vars(cls), cls
    assert [k for k, p in MODULES.items() if 'has no effect: ' in p.read_text()] == ['transforms.diagnostics']

def test_no_circle():
    "No module imports itself by way of others; a face, which imports its room, is a module like any other"
    known = {face(n): n for n in MODULES}
    edges = {a: {known[b] for b, _ in to if b in known and known[b] != a} for a, to in GRAPH.items()}
    done, path = set(), []
    def visit(a):
        assert a not in path, [*path[path.index(a):], a]
        if a in done: return
        path.append(a)
        for b in sorted(edges[a]): visit(b)
        done.add(path.pop())
    for a in edges: visit(a)

def lazy_modules(name):
    "The modules that a face imports when a name of them is asked for"
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'lazy':
            yield from (f"{name.removesuffix('__init__')}{k.arg}" for k in node.keywords)

def test_every_module_is_reached_from_a_face():
    reached = set()
    def reach(name):
        name = name if name in MODULES else f'{name}.__init__'
        if name in reached or name not in MODULES: return
        reached.add(name)
        for b, _ in GRAPH[name]: reach(b)
        for b in lazy_modules(name): reach(b)
    for start in FACES: reach(start)
    assert {*MODULES} - reached <= {'all'}

def test_faces_have_what_their_modules_have():
    import importlib
    for room in FACES:
        shown = importlib.import_module(f'cf_guidance.{room}')
        assert len(shown.__all__) == len(set(shown.__all__)) > 3
        for name in shown.__all__: getattr(shown, name)
        with pytest.raises(AttributeError): shown.nothing_of_this_name

FIRST = ('schedules.ramps', 'schedules.core', 'transforms.core', 'transforms.normalise', 'sweeps.axes',
         'widgets.javascript')

@pytest.mark.parametrize('first', FIRST)
def test_what_is_there_whatever_came_first(first, forks):
    src = (
        f'import cf_guidance.{first}; from cf_guidance.schedules import CURVES, constant; from cf_guidance.transforms '
        'import TRANSFORMS, RULES; '
        'print(constant(7.5).cutoff(.4), len(CURVES), len(TRANSFORMS), len(RULES))')
    said = forks.run(src, check=True).stdout.split()
    from cf_guidance.schedules import CURVES
    from cf_guidance.transforms import RULES, TRANSFORMS
    ours = [
        sum(getattr(f, '__module__', '').startswith('cf_guidance.')
            for f in r.values())
        for r in (CURVES, TRANSFORMS, RULES)
    ]
    assert said == ['constant(7.5).cutoff(0.4)', *map(str, ours)]

FORMER = root/'tests/former'          # made by commit 2b28259, before there were rooms

@pytest.mark.filterwarnings('ignore:cf_guidance')
def test_pickles_of_before():
    from cf_guidance.schedules import cosine, lift
    from cf_guidance.transforms import TRANSFORMS, guidance
    kept = pickle.loads((FORMER/'house.pickle').read_bytes())
    assert kept['schedules'][0] == cosine(10, 2).warmup(3) and kept['schedules'][3] == lift([1, 2, 3])
    kinds = {type(t) for t in kept['transforms']}
    # later ones are not among them
    assert kinds <= {*TRANSFORMS.values()} and len(kinds) == len(kept['transforms']) == 42
    for t in kept['transforms']: assert repr(t) == repr(guidance(t.rule.__name__, **t.schedules)), t
    assert (kept['steps'][0], kept['steps'][0].n, kept['steps'][0].sigma, kept['runs'][0].seed) == (3, 10, 1.5, 1)

@pytest.mark.filterwarnings('ignore:cf_guidance')
def test_folder_of_before(tmp_path, monkeypatch):
    "Its images are those of today's sweep, also of a transform of one's own; nothing is made again, and one made again is equal"
    import numpy as np
    from PIL import Image
    from cf_guidance.records import read_recipe, rerun
    from cf_guidance.sweeps import Sweep
    monkeypatch.syspath_prepend(str(FORMER))
    import mine_then
    shutil.copytree(FORMER/'images', tmp_path/'images')
    names = {p.name for p in (tmp_path/'images').iterdir()}
    sweep = Sweep(model='shapes', prompt='a red star', schedule=[3, 'cosine'],
                  transform=['cfg', 'apg', mine_then.Softer], steps=2, seed=1)
    sweep.run(tmp_path, progress=False)
    assert {p.name
            for p in (tmp_path/'images').iterdir()} == names == {c.file.name
                                                                 for c in sweep.cells} and len(names) == 6
    path = next(c.file for c in sweep.cells if read_recipe(c.file)['rule'] == 'apg')
    assert np.abs(np.asarray(rerun(path, progress=False), int) - np.asarray(Image.open(path), int)).max() <= 2

def cells_of(nb):
    "The exported cells of a notebook"
    cells = [''.join(c['source']) for c in json.loads(nb.read_text())['cells'] if c['cell_type'] == 'code']
    return [c for c in cells if c.startswith('#| export')]

DEFINE = [nb for nb in sorted((root/'nbs').rglob('*.ipynb')) if nb.stem not in ('01_schedule', '01_guidance')
          and any(re.search(r'^@(curve|rule|transform)\b', c, re.M) for c in cells_of(nb))]

AGAIN = '''
import json, pickle, sys
from cf_guidance.sweeps import Sweep
from cf_guidance.transforms import CURVES, OWN, RULES, TRANSFORMS, guidance
from cf_guidance.widgets import ScheduleExplorer
registries = CURVES, RULES, TRANSFORMS
before, classes = [dict(r) for r in registries], {c.__name__ for c in OWN}
for cells in json.loads(sys.argv[1]):
    space = {'__name__': '__main__'}
    for cell in cells: exec(cell, space)
for r, was in zip(registries, before):
    assert list(r) == list(was), set(r) ^ set(was)
    assert all(r[k] is was[k] for k in r), [k for k in r if r[k] is not was[k]]
assert {c.__name__ for c in OWN} == classes
for name in TRANSFORMS: assert type(pickle.loads(pickle.dumps(guidance(name)))) is TRANSFORMS[name], name
sweep = Sweep(model='shapes', schedule=['cosine', 'sigmoid'], transform=['cfg', 'apg', 'rescale'], steps=2, seed=1)
assert {type(c.run.tfm) for c in sweep.cells} == {TRANSFORMS[k] for k in ('cfg', 'apg', 'rescale')}
for name in TRANSFORMS: assert type(ScheduleExplorer(CURVES['cosine'](), name, images=False).tfm) is TRANSFORMS[name], name
'''

def test_notebooks_beside_their_modules(forks):
    "Running the exported cells of a notebook in `__main__` leaves the registries with what the modules put there"
    assert len(DEFINE) > 12
    done = forks.run(AGAIN, json.dumps(list(map(cells_of, DEFINE))))
    assert done.returncode == 0, done.stderr[-2000:]
