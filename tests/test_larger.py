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
    'adapters/05_pipelines': {"get_sd_pieces('scenes-weak', ": "get_sd_pieces('scenes', ", 'tfms[k % 3:][:1]': 'tfms',
                              'list(rows)[::3]': 'list(rows)'},
    'adapters/06_guiders': {
        'seeds=(1, 2)': 'seeds=(1, 2, 3)', '[flat]*2 + [rising]*2': '[flat]*3 + [rising]*3',
        'guider, 10, seed': 'guider, 12, seed', 'steps=10, seed': 'steps=12, seed',
        "get_sd_pieces('shapes-weak')": "get_sd_pieces('shapes')", 'names[::2]': 'names', 'names[1::2]': 'names[::2]',
        'names[2:3]': 'names[1::2]', 'run(pipe, guider, 3)': 'run(pipe, guider, 6)',
        "9 if 's' in kw else 6": "18 if 's' in kw else 12"
    },
    'adapters/08_callbacks': {'scheds[k % 3:][:1]': 'scheds', "'scenes-weak'": "'scenes'"},
    'adapters/11_sharing': {"'scenes-weak'": "'scenes'"},
    'cli/05_sweep_command': {"['--steps', '2', '--sampler', 'ddim'": "['--steps', '3', '--sampler', 'ddim'"},
    'evaluation/01_statistics': {'max_examples=40': 'max_examples=400', 'tries = {}, 60': 'tries = {}, 150'},
    'evaluation/03_strength': {"'steps': 6": "'steps': 12", 'values(6)': 'values(12)'},
    'evaluation/03a_sweep_figures': {'steps=5': 'steps=8'},
    'evaluation/04_report': {'steps=5': 'steps=8'},
    'model_card': {"('dev')[::10]": "('dev')[::6]", 'steps=10)': 'steps=12)', 'g = 5, 10 steps': 'g = 5, 12 steps',
                   'steps=6': 'steps=10'},
    'pieces/01a_schedulers': {'list(SAMPLERS)[k % 3::3]': 'SAMPLERS'},
    'pieces/04_flow': {'[3.]*30': '[3.]*50', 'steps=30': 'steps=50', 'steps=12': 'steps=20'},
    'sampling/01_course': {'(1, .55, .05)': '(1, .8, .55, .3, .1, .05)', '(.55, .1)': '(.8, .55, .3, .1)'},
    'sampling/02_loop': {"('lms', 'unipc', 'euler_a')": "('lms', 'dpm++_2m', 'heun', 'unipc', 'euler_a', 'ddpm')"},
    'sampling/03_images': {'steps=4, sampler=name': 'steps=10, sampler=name', 'seed=7, steps=5': 'seed=7, steps=8'},
    'sampling/04_image_to_image': {"'scenes-weak'": "'scenes'", 'steps=7': 'steps=10', '(.58,)': '(.3, .58, 1)'},
    'schedules/03_windows': {'range(1, 61, 4)': 'range(1, 61)'},
    'sweeps/02_plans': {'list(enumerate(few))[::2]': 'enumerate(few)'},
    'sweeps/05_cluster': {'workers=1,': 'workers=min(2, os.cpu_count()),'},
    'transforms/10_perturbed': {"('blocks', 'a part')": "('whole', 'blocks', 'a part')", 'range(3))': 'range(6))',
                                'len(out) == 3': 'len(out) == 6'},
    'transforms/14_diagnostics': {'list(TRANSFORMS)[::3]': 'TRANSFORMS',
                                  'seeds=list(range(4))': 'seeds=list(range(8))'},
    'tutorials/claims': {"scene_prompts('dev')[::16]": "scene_prompts('dev')[::3]"},
    'tutorials/how_much': {'(16, 80)': '(16, 32, 48, 64, 80)', 'rows=2': 'rows=5'},
    'tutorials/many_machines': {
        'rest.images(progress=False)': 'ray_images(rest, workers=2, progress=False)',
        'expect(1, rest.most, len(rest.waves), len(left), a_pass, 0,':
        'expect(2, rest.most, max(2, len(rest.waves)), len(left), a_pass, start,'
    },
    'tutorials/two_trees': {'n=2000': 'n=4000', ', 1500': ', 3000'},
    'widgets/04_explorer': {'list(TRANSFORMS)[::3]': 'TRANSFORMS'},
    'worlds/03_mixture_pieces': {'1500': '4000', 'steps=30': 'steps=50', 'draw(1000': 'draw(4000', '2/1000': '2/4000'},
}

@pytest.mark.parametrize('name', MORE)
def test_more(name, forks, every):
    fn, more = ROOT/f'nbs/{name}.ipynb', MORE[name]
    code = '\n'.join(''.join(c['source']) for c in json.loads(fn.read_text())['cells'] if c['cell_type'] == 'code')
    assert [few for few in more if few not in code] == []       # each number is in the notebook still
    if not every: pytest.skip('with --all')
    forks.run(PLAY, fn, json.dumps(more), check=True)
