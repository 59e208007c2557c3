"The timed comparisons run from end to end, in small; what they count is exact, what they time is not asked"
import json, statistics
from importlib.util import find_spec
from pathlib import Path
import pytest

bench = Path(__file__).parent.parent/'benchmarks'

def shape(x):
    if isinstance(x, dict): return {k: shape(v) for k, v in x.items()}
    return [shape(v) for v in x[:1]] if isinstance(x, list) else None

def test_sharing(tmp_path, forks, every):
    if not every: pytest.skip('one of the heavier cases')
    forks.script(bench/'sharing.py', '--quick', '--threads', '1', '--out', tmp_path/'t.json')
    res, kept = json.loads((tmp_path/'t.json').read_text()), json.loads((bench/'sharing.json').read_text())
    counted = {r['name']: tuple(r['counted'].values()) for r in res['workloads']}
    assert counted == {
        "the ten of 2022": (10, 966, 995), 'five cut-offs': (5, 196, 400), 'twelve windows': (12, 394, 870),
        '8 seeds x 10 schedules': (80, 8*966, 8*995), '4 prompts x 4 seeds x 6 transforms': (96, 8301, 9120)
    }
    assert all(r['gap'] <= 2 and r['compared']
               for r in res['workloads']) and all(r['gap'] <= 2 < r['differ'] and r['memory'] <= 1.25
                                                  for r in res['apart'])
    assert [(r['model'], r['ours']['rows'], r['pipeline']['rows']) for r in res['apart']] == [('shapes', [36], [80]),
                                                                                              ('small', [13], [27])]
    # the last step is `t` alone
    assert [(r['images'], r['made'], r['alone']) for r in res['growth']['rows']] == [(n, n*72//10, 9*n)
                                                                                     for n in (10, 20, 30)]
    # the table that is kept is this program's
    assert counted == {r['name']: tuple(r['counted'].values()) for r in kept['workloads']} and shape(res) == shape(kept)

def test_hosts(tmp_path, forks):
    forks.script(bench/'hosts.py', '--quick', '--threads', '1', '--out', tmp_path/'t.json')
    res, kept = json.loads((tmp_path/'t.json').read_text()), json.loads((bench/'hosts.json').read_text())
    assert [r['rows'] for r in res['rows']] == [{'hosted': 20, 'interval': 15}
                                                ] and kept['rows'][0]['rows'] == res['rows'][0]['rows']
    assert shape(res) == shape(kept)

def follows(r):
    "Each ratio of a row is the median of those of its seconds, which are rounded as the ratio is"
    secs = r['seconds']
    of = dict(to_guided=('guided', 'shared'), to_stock=('stock', 'shared'), to_network=('shared', 'network'))
    parts = {k: (secs[a], secs[b]) for k, (a, b) in of.items()}
    if 'to_least' in r or 'rest' in secs:             # both or neither
        parts['to_least'] = secs['shared'], [a + b for a, b in zip(secs['network'], secs['rest'])]
    assert {k for k in r if k.startswith('to_')} == {*parts}
    for k, (above, below) in parts.items():
        rates = [x/y for x, y in zip(above, below)]
        off = .0005 + max(x/y - max(0, x - .0005)/(y + .001) for x, y in zip(above, below))
        assert abs(statistics.median(rates) - r[k]) <= off and len(above) == len(below), (r['name'], k)

def test_engines(tmp_path, forks, every):
    if not every: pytest.skip('one of the heavier cases')
    forks.script(bench/'engines.py', '--quick', '--out', tmp_path/'t.json')
    res, kept = json.loads((tmp_path/'t.json').read_text()), json.loads((bench/'engines.json').read_text())
    for r in res['rows']: assert r['seconds']['rest'][0] < r['seconds']['stock'][0]
    for r in [*res['rows'], *kept['rows']]: follows(r)
    # the table that is kept says what this program says, but for what it began to time later
    later, (new, old) = {'to_least'}, (r['rows'][0] for r in (res, kept))
    assert {*res} == {*kept} and {*new} - later <= {*old} <= {*new} and {*old['seconds']} <= {*new['seconds']}
    # two more than our own loop makes
    assert res['rows'][0]['calls'] == {'made': 36 + 2, 'alone': 80}
    at = {(r['name'], r['workload']): r for r in kept['rows']}
    names = {name for name, _ in at}
    assert len(names) == 3 and len(at) == 9 and all(r['gap'] <= 2 for r in [*res['rows'], *kept['rows']])
    for name in names:                                              # what is promised, of the table that is kept
        assert at[name, 'five cut-offs']['to_stock'] >= 2 and at[name, 'nothing to share']['to_guided'] >= .97
    assert kept['key_seconds'] < .001

def test_scale(tmp_path, forks, every):
    if not every: pytest.skip('one of the heavier cases')
    forks.script(bench/'scale.py', '--quick', '--out', tmp_path/'t.json')
    res, kept = json.loads((tmp_path/'t.json').read_text()), json.loads((bench/'scale.json').read_text())
    there, shapes = {(r['shape'], r['images']) for r in kept['rows']}, ('grid', 'pairs', 'one axis', 'own seeds')
    assert there == {(s, n) for s in shapes for n in (100, 1000, 10_000)}
    for r in [*res['rows'], *kept['rows']]:
        assert r['run']['opened'] == r['resume']['opened'] == r['images'], r                # each image once
        if r['open']: assert max(r['open']['drawn'], r['open']['asked_drawn']) < 4000, r    # however many there are
    # what is promised of ten thousand images, and how it was before
    for r in kept['rows']:
        assert r['before']['resume'] > 0, r
        if r['images'] < 10_000: continue
        assert r['resume']['seconds'] < 5 < r['before']['resume'], r
        assert max(r['open']['seconds'], r['open']['asked']) < 3, r

def test_compiled(tmp_path, forks, every):
    kept = json.loads((bench/'compiled.json').read_text())
    at = {(r['name'], r['threads']): r for r in kept['rows']}
    names = 'the ten of 2022', 'twelve windows', "the explorer's image", 'an evaluation'
    assert {*at} == {(name, n) for name in names for n in (1, 2)} and at[names[0], 1]['made'] == 966
    for r in kept['rows']:
        assert r['gap'] <= 1 and r['differ'] <= r['images']
        for k, by in (('ratio', 'seconds'), ('cpu_ratio', 'cpu')):
            # of seconds that are rounded
            assert abs(r[k] - min(r[by]['onnx'])/min(r[by]['eager'])) <= .001, (r['name'], k)
        assert r['ratio'] < .95, r['name']
    # the one that is promised and kept
    assert all(at[names[2], n]['ratio'] <= at[names[2], n]['target'] for n in (1, 2))
    if not every: pytest.skip('running it is one of the heavier cases')
    if not find_spec('onnxruntime'): pytest.skip("needs pip install 'cf_guidance[onnx]'")
    forks.script(bench/'compiled.py', '--quick', '--threads', '1', '--out', tmp_path/'t.json')
    assert shape(json.loads((tmp_path/'t.json').read_text())) == shape(kept)
