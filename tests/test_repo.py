"What the repository promises about itself"
import ast, importlib, importlib.util, json, re, subprocess, sys, zlib
from configparser import ConfigParser
from pathlib import Path
import pytest

root = Path(__file__).parent.parent
nbs = [p for p in sorted((root/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]

def code(nb): return [''.join(c['source']) for c in json.loads(nb.read_text())['cells'] if c['cell_type'] == 'code']

def test_schedules_import_is_light():
    heavy = {'torch', 'numpy', 'matplotlib', 'fastcore'}
    src = f'import sys, cf_guidance.schedules; print(sorted({heavy} & set(sys.modules)))'
    assert subprocess.run([sys.executable, '-c', src], capture_output=True, text=True, check=True).stdout == '[]\n'

REFUSED_AT_ONCE = (['--schedule', 'cosin'], ['--schedule', 'cosine(9'], ['--steps', '0'], ['--seed', 'ten'],
                   ['--shedule', '3'])

def test_what_is_mistyped_is_refused_before_torch():
    "A wrong schedule, number or option costs no import of anything heavy"
    for words in REFUSED_AT_ONCE:
        src = (f'import sys; sys.argv = ["cfg_sweep", *{words!r}]; from cf_guidance.cli import main\n'
               'try: main()\nexcept SystemExit as e:\n'
               '    print(sorted({"torch", "diffusers", "matplotlib"} & set(sys.modules)), e)')
        said = subprocess.run([sys.executable, '-c', src], capture_output=True, text=True, check=True).stdout
        assert said.startswith('[] cfg_sweep: '), (words, said)

def test_modules_and_notebooks_match():
    made = {m.group(1) for nb in nbs for c in code(nb) if (m := re.search(r'^#\| default_exp ([\w.]+)', c, re.M))}
    there = {
        '.'.join(p.relative_to(root/'cf_guidance').with_suffix('').parts)
        for p in (root/'cf_guidance').rglob('*.py')
    }
    assert made == there - {'__init__', '_modidx'}

def test_tutorials_install_themselves_in_colab():
    "Each begins with a cell that does nothing elsewhere, and brings the files that the page reads"
    pages = [*(root/'nbs/tutorials').glob('*.ipynb'), root/'nbs/gallery.ipynb', root/'nbs/model_card.ipynb']
    for nb in pages:
        where = nb.parent.relative_to(root)
        assert '! [ -e /content ] && git clone' in code(nb)[0] and f'/tmp/cfg/{where}/. .' in code(nb)[0], nb.name
    assert len(pages) > 13

def test_every_notebook_has_its_place_in_the_sidebar():
    listed = re.findall(r'- (\S+\.ipynb)', (root/'nbs/sidebar.yml').read_text())
    assert sorted(listed) == sorted(nb.relative_to(root/'nbs').as_posix() for nb in nbs)

def test_notebooks_are_light_and_run_whole():
    for nb in nbs:
        assert nb.stat().st_size < 150*1024, nb.name
        assert not any('eval: false' in c or 'skip_exec' in c for c in code(nb)), nb.name

def test_no_path_of_a_machine():
    "What a cell shows does not say where the checkout was"
    for nb in nbs:
        assert not re.search(
            r'/[\w./-]+/(cf_guidance|nbs)/[\w/]+\.(py|ipynb)', ''.join(
                json.dumps(c.get('outputs', []))
                for c in json.loads(nb.read_text())['cells']).replace('https://', '')), nb.name

def test_outputs_show_no_address():
    "What a cell shows is the object's own words, not its class and place in memory"
    for nb in nbs:
        assert not (m := re.search(
            r'<[\w.]+ (object )?at 0x\w+>', ''.join(
                json.dumps(c.get('outputs', [])) for c in json.loads(nb.read_text())['cells']))), (nb.name, m)

def stored(nb):
    "The texts that the cells of a notebook keep: whether an object or a print, and the text"
    for cell in json.loads(nb.read_text())['cells']:
        for out in cell.get('outputs', []):
            yield out, ''.join(out.get('text') or out.get('data', {}).get('text/plain', ''))

def test_outputs_are_for_the_reader():
    "No stored output is a warning, a progress bar, the object that drawing returns, or a number as numpy writes it"
    drawn = re.compile(r'[\[({\s]*(<matplotlib|<Axes|<Figure|<function|Text\()')
    for nb in nbs:
        for out, text in stored(nb):
            assert out.get('name') != 'stderr' and 'it/s]' not in text, nb.name
            assert out['output_type'] == 'stream' or not re.search(r'\bnp\.(float|int|bool)', text), (nb.name, text)
            assert out['output_type'] != 'execute_result' or not drawn.match(text), (nb.name, text[:60])

def test_outputs_name_what_is_there():
    "A class of the package that a stored output shows is still where the output says"
    named = re.compile(r"<class '(cf_guidance[.\w]+)'>")
    shown = {name for nb in nbs for _, text in stored(nb) for name in named.findall(text)}
    assert shown
    for name in shown:
        module, _, cls = name.rpartition('.')
        assert module == getattr(getattr(importlib.import_module(module), cls, None), '__module__', ''), name

def heading(nb):
    "The title of a page and the question below it"
    text = next(''.join(c['source']) for c in json.loads(nb.read_text())['cells'] if ''.join(c['source'])[:2] == '# ')
    return re.match(r'# (.*)\n\n> (.*)', text).groups()

def test_titles_stand_alone():
    "The cell of the title has the title, the question and settings; the site leaves anything else in it out"
    for nb in nbs:
        cells = [''.join(c['source']) for c in json.loads(nb.read_text())['cells']]
        text = next(c for c in cells if c.startswith('# '))
        assert re.fullmatch(r'# .*(\n+> .*)?(\n+(- \w+: .*\n*)+)?\n*', text), nb.name

def test_rooms_list_their_pages():
    "The first page of a room has a table of the others, each with its title and its question"
    for first in (root/'nbs').glob('*/00_*.ipynb'):
        text = ''.join(''.join(c['source']) + '\n' for c in json.loads(first.read_text())['cells'])
        for nb in first.parent.glob('*.ipynb'):
            title, question = heading(nb)
            assert nb == first or f'| [{title}]({nb.name}) | {question} |' in text, (first.name, nb.name)

def test_names_link_themselves():
    "A public name in backticks becomes a link on the site, so a link around it would be one inside another"
    index = (root/'cf_guidance/_modidx.py').read_text()
    for nb in nbs:
        text = [''.join(c['source']) for c in json.loads(nb.read_text())['cells'] if c['cell_type'] == 'markdown']
        assert [n for t in text for n in re.findall(r'\[`(\w+)`\]\([\w./]+\.ipynb\)', t)
                if f".{n}':" in index] == [], nb.name

def test_wheel_budget():
    size = lambda p: sum(f.stat().st_size for f in ([p] if p.is_file() else p.rglob('*')) if f.is_file())
    # MiB
    most = {
        'shapes': 20, 'shapes-weak': 3, 'verifier.safetensors': 1, 'scenes': 14, 'scenes-weak': 3, 'scenes-flow': 6,
        'scenes-verifier.safetensors': 2
    }
    assert {p.name for p in (root/'cf_guidance/models').iterdir()} == set(most)
    for name, mib in most.items(): assert size(root/'cf_guidance/models'/name) <= mib*2**20, name
    files = [p for p in (root/'cf_guidance/models').rglob('*') if p.is_file()]
    assert {p.suffix for p in files} <= {'.json', '.txt', '.safetensors'}
    # a wheel packs as zlib does; with the code it stays below 40 MB
    assert sum(len(zlib.compress(p.read_bytes())) for p in files) < 39.5e6

def test_constraints_pin_every_requirement():
    ini = ConfigParser(delimiters=['=']); ini.read(root/'settings.ini')
    wanted = {
        re.split(r'[=<>]', r)[0].lower()
        for k in ('requirements', 'dev_requirements')
        for r in ini['DEFAULT'][k].split()
    }
    pinned = {l.split('==')[0].lower() for l in (root/'constraints.txt').read_text().splitlines() if '==' in l}
    assert wanted <= pinned

def _tool(name):
    "A program of `tools` as a module"
    spec = importlib.util.spec_from_file_location(name, root/f'tools/{name}.py')
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def test_evaluate(tmp_path, monkeypatch):
    "The program behind the tutorials' rows, in small: it goes on from what is there, and what it scales is as strong as it says"
    from cf_guidance.worlds import scene_prompts
    tool = _tool('evaluate')
    few = {part: [p.text for p in scene_prompts(part)][:24:6] for part in ('dev', 'test')}
    monkeypatch.setattr(tool, 'prompts_of', lambda name, part: few[part])
    lines = lambda: tool.beside(tool.claimed('scenes-weak', 'dpm', 4, 3., 2)[::4], (3,))
    monkeypatch.setitem(tool.STUDIES, 'claims', lines)
    def rows(*args):
        monkeypatch.setattr(sys, 'argv', ['evaluate.py', 'claims', str(tmp_path/'rows.jsonl'), *args])
        tool.main()
        return [json.loads(s) for s in (tmp_path/'rows.jsonl').read_text().splitlines()]
    first = rows('--part', '1/2')
    every = rows()
    assert every[:len(first)] == first and len(first) == 2 and rows() == every
    assert [r['method'] for r in sorted(every, key=lambda r: r['method'])] == sorted(x.method for x in lines())
    plain, *others = every
    for r in others: assert abs(r['displacement'] - plain['displacement']) <= .031*plain['displacement'], r['method']
    for r in every: assert set(r['all']) <= {'0', '1'} and len(r['all']) == 8 and len(r['vendi']) == 4
    assert len({r['fingerprint'] for r in every}) == 1 and plain['g'] == [3.]*4 and plain['aside'] < .01

@pytest.mark.heavy
def test_studies_of_evaluate():
    "Each method is in a cell once, and what is to be as strong as a constant has it beside it"
    tool = _tool('evaluate')
    for name in ('curve', 'claims'):
        names = [tool.name_of(line.key) for line in tool.STUDIES[name]()]
        assert len({*names}) == len(names)
    for line in tool.claims():
        if line.like: assert (line.model, line.sampler, line.steps, f'constant {line.like:g}') in {
            tool.name_of(x.key) for x in tool.claims() if x.noises == line.noises}

def test_scene_gates(tmp_path, forks):
    "The program behind the gates of `scenes`, in small: a line for each sampler and strength, and it goes on from what is there"
    args = [root/'tools/scene_gates.py', tmp_path/'gates.jsonl', '--every', '45', '--noises', '2', '--steps', '1']
    forks.script(*args)
    lines = (tmp_path/'gates.jsonl').read_text().splitlines(True)
    rows = list(map(json.loads, lines))
    assert {(r['sampler'], r['g'])
            for r in rows} == {(s, g)
                               for s in ('ddim', 'euler', 'dpm')
                               for g in (1, 3, 5, 7.5, 15)} and len(rows) == 15
    for r in rows: assert r['images'] == 6 and 0 <= r['lo'] <= r['all'] <= r['hi'] <= 1 and r['held'] is None
    (tmp_path/'gates.jsonl').write_text(''.join(lines[:3]))
    assert len(forks.script(*args).stdout.splitlines()) == 12
    assert (tmp_path/'gates.jsonl').read_text() == ''.join(lines)

def test_imports_have_cells_of_their_own():
    "The site runs the cells that import, before it has run any other"
    mixed = []
    for nb in nbs:
        for c in json.loads(nb.read_text())['cells']:
            code = ''.join(c['source'])
            if c['cell_type'] != 'code' or code.startswith(('#| hide', '#| export', '%', '!')): continue
            own, imports = (ast.FunctionDef, ast.ClassDef), (ast.Import, ast.ImportFrom)
            parts = [[node] if isinstance(node, own) else [*ast.walk(node)] for node in ast.parse(code).body]
            kinds = [any(isinstance(n, imports) for n in part) for part in parts]
            # where a folder of the repository is put on the path, imports follow it
            if any(kinds) and not all(kinds) and 'sys.path' not in code: mixed.append((nb.name, c['id']))
    assert mixed == []
