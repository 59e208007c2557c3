"What notebooks prove with few samples, samplers or a small network, proved with more: the same cells, with other numbers; with --all"
import json
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
PLAY = f'''
import json, runpy, sys
from pathlib import Path
from execnb.nbio import read_nb
play = runpy.run_path({str(ROOT/'tools/nbs.py')!r})['play']
fn, more = Path(sys.argv[1]), json.loads(sys.argv[2])
nb = read_nb(fn)
for cell in nb.cells:
    if cell.cell_type != 'code': continue
    for few, many in more.items(): cell.source = cell.source.replace(few, many)
play(nb, fn)
'''
MORE = {
    'adapters/05_pipelines': {"get_sd_pieces('scenes-weak', ": "get_sd_pieces('scenes', "},
    'adapters/08_callbacks': {'(scheds[k % 3], scheds[(k + 1) % 3])': 'scheds', "'scenes-weak'": "'scenes'"},
    'evaluation/01_statistics': {'max_examples=40': 'max_examples=400'},
    'evaluation/03_strength': {"'steps': 6": "'steps': 12", 'values(6)': 'values(12)'},
    'sampling/04_image_to_image': {"'scenes-weak'": "'scenes'", 'steps=7': 'steps=10'},
    'transforms/14_diagnostics': {'seeds=list(range(4))': 'seeds=list(range(8))'},
    'tutorials/how_much': {'(2, 110, 190)': '(2, 85, 110, 150, 190)'},
    'tutorials/many_machines': {'workers=1': 'workers=2', 'expect(1, rest.most, len(rest.waves)':
                                'expect(2, rest.most, max(2, len(rest.waves))'},
    'tutorials/two_trees': {'n=2000': 'n=4000', ', 1500': ', 3000'},
    'worlds/03_mixture_pieces': {'1500': '4000', 'steps=30': 'steps=50', 'draw(1000': 'draw(4000', '2/1000': '2/4000'},
}

@pytest.mark.parametrize('name', MORE)
def test_more(name, forks, every):
    fn, more = ROOT/f'nbs/{name}.ipynb', MORE[name]
    code = '\n'.join(''.join(c['source']) for c in json.loads(fn.read_text())['cells'] if c['cell_type'] == 'code')
    assert [few for few in more if few not in code] == []       # each number is in the notebook still
    if not every: pytest.skip('with --all')
    forks.run(PLAY, fn, json.dumps(more), check=True)
