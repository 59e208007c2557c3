"The node pack for ComfyUI, without a ComfyUI: what it holds, and that it runs under another name and without the heavy packages"
import ast, runpy, tomllib
from pathlib import Path
import pytest

root = Path(__file__).parent.parent

@pytest.fixture(scope='module')
def pack(tmp_path_factory):
    return runpy.run_path(str(root/'tools/comfy_pack.py'))['write'](tmp_path_factory.mktemp('pack')/'nodes')

def test_pack_holds_what_the_nodes_need(pack):
    rooms = {p.relative_to(pack/'cf_guidance').parts[0] for p in (pack/'cf_guidance').rglob('*.py')}
    assert rooms == {'__init__.py', 'adapters', 'checks.py', 'rooms.py', 'schedules', 'transforms'}
    assert {p.name for p in (pack/'cf_guidance/adapters').glob('comfyui*')} == {
        'comfyui.py', 'comfyui_nodes.py', 'comfyui_weak.py'}
    known = tomllib.loads((pack/'pyproject.toml').read_text())
    (needs,) = known['project']['dependencies']
    assert needs.startswith('fastcore') and (pack/'requirements.txt').read_text() == needs + '\n'
    assert (pack/known['tool']['comfy']['web']/'curve.js').is_file() and (pack/known['project']['readme']).is_file()
    assert (pack/'LICENSE').read_text() == (root/'LICENSE').read_text()

def test_every_node_has_a_help_page(pack):
    tree = ast.parse((pack/'cf_guidance/adapters/comfyui_nodes.py').read_text())
    ids = {k.value.value for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords if k.arg == 'node_id'}
    assert len(ids) == 5 and {p.stem for p in (pack/'web/docs').glob('*.md')} == ids

def test_pack_runs_alone(pack, forks):
    "As a part of another package, where nothing else of this library can be imported"
    heavy = 'diffusers transformers matplotlib ipywidgets cf_guidance'.split()
    src = f'''import importlib.util, sys
for name in {heavy}: sys.modules[name] = None
spec = importlib.util.spec_from_file_location('there', {str(pack/'cf_guidance/__init__.py')!r})
module = sys.modules['there'] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from there.adapters.comfyui_nodes import curve_answer, rule_inputs, transform_of
import torch
from there.schedules import Step
rules = {{k: transform_of(k, {{p: said['default'] for p, (_, said) in ins.items()}}) for k, ins in rule_inputs().items()}}
pred = rules['apg'](torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8), idx=Step(0, 9))
print(len(rules) > 45, curve_answer(dict(curve='expression', values=dict(text='linear(9, 1).warmup(3)')))['values'][-1],
      pred.shape[1])'''
    done = forks.run(src)
    assert done.stdout.split() == ['True', '1.0', '4'], done.stderr

def test_pack_does_not_overwrite(pack):
    with pytest.raises(SystemExit, match='must be a new or an empty folder'):
        runpy.run_path(str(root/'tools/comfy_pack.py'))['write'](pack)
