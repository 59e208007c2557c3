"The packages of 2022 and timm: figures computed once by tools/peers.py, which says how"
import json
from pathlib import Path
import pytest, torch
from cf_guidance.schedules import Step, cosine_2022, get_cos_sched, restarts
from cf_guidance.transforms import TRANSFORMS

PEERS = json.loads((Path(__file__).parent/'peers.json').read_text())
NAMES = {
    'GuidanceTfm': 'cfg', 'BaseNormGuidance': 'base_norm', 'TNormGuidance': 't_norm', 'FullNormGuidance': 'full_norm',
    'no_norm': 'cfg', 'pred_norm': 'base_norm', 't_norm': 't_norm', 'full_norm': 'full_norm'
}    # theirs: ours

PLAIN = get_cos_sched(10, num_cycles=2)

@pytest.mark.parametrize('case', PEERS['cos'], ids=lambda c: str(c['args']))
def test_cosine_of_2022(case):
    "`get_cos_sched` and the curve that is named for 2022 are both releases' list"
    ours, kw = get_cos_sched(**case['args']), dict(case['args'])
    assert ours == pytest.approx(case['old'], abs=1e-12) and ours == pytest.approx(case['later'], abs=1e-12)
    n, warm, start = kw.pop('num_steps', 50), kw.pop('num_warmup_steps', 0), kw.pop('warmup_init_val', 0.)
    assert cosine_2022(**kw).warmup(warm, start).values(n) == pytest.approx(case['old'], abs=1e-12)

@pytest.mark.parametrize('case', PEERS['timm'], ids=lambda c: str(c['args']))
def test_restarts_of_timm(case):
    "`restarts` is timm's scheduler with a first cycle of `t_initial` steps"
    kw, n = dict(case['args']), len(case['vals'])
    first = kw.pop('t_initial')
    assert restarts(num_cycles=n/(2*first), **kw).values(n) == pytest.approx(case['vals'], abs=1e-9)
    if {'cycle_mul', 'cycle_decay', 'cycle_limit'} & set(kw):
        assert get_cos_sched(n, num_cycles=n/(2*first), **kw) == pytest.approx(case['vals'], abs=1e-9)

@pytest.mark.parametrize('case', PEERS['inert'], ids=lambda c: str(c['args']))
def test_options_that_did_nothing(case):
    "The three cycle options changed nothing in 2022; here they do"
    assert case['old'] == PLAIN
    assert get_cos_sched(10, **case['args']) != pytest.approx(PLAIN, abs=1e-3)

@pytest.mark.parametrize('name', PEERS['preds'])
def test_norms_of_2022(name):
    "The transforms agree on the same tensors, with one norm over the batch as theirs; with one for each sample they do not"
    u, t, want = (torch.tensor(v, dtype=torch.float64) for v in (PEERS['u'], PEERS['t'], PEERS['preds'][name]))
    tfm = lambda **kw: TRANSFORMS[NAMES[name]]({'g': [.15, 7.5]}, **kw)
    assert (tfm(per_sample=False)(u, t, idx=1) - want).abs().max() < 1e-12
    assert (tfm(per_sample=False)(u, t, idx=Step(1, 2)) - want).abs().max() < 1e-12
    assert ((tfm()(u, t, idx=1) - want).abs().max() > 1e-3) == (NAMES[name] != 'cfg')
