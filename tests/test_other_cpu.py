"The switch `--other-cpu` does what it says: other bits, a few ulp away, the same for the same batch"
import json, os, subprocess, sys
from pathlib import Path
import torch

HERE = str(Path(__file__).parent/'other_cpu')
ASK = '''
import json, subprocess, sys
light = 'torch' not in sys.modules
import torch, torch.nn.functional as F
torch.manual_seed(0)
far = lambda a, b: ((a.double() - b.double()).abs().max()/b.double().square().mean().sqrt()/torch.finfo(a.dtype).eps).item()
x, w, plane, k = torch.randn(4, 64), torch.randn(32, 64), torch.randn(4, 8, 6, 6), torch.randn(8, 8, 3, 3)
q = torch.randn(4, 2, 16, 8)
ways = {'linear': F.linear, 'matmul': lambda x, w: x @ w.T}
res = dict(light=light, zero=F.linear(torch.zeros(2, 64), w).abs().max().item(), far={}, same={}, batch={})
for name, way in ways.items():
    for dtype in (torch.float32, torch.bfloat16):
        a, b = x.to(dtype), w.to(dtype)
        res['far'][f'{name} {dtype}'] = far(way(a, b), way(a.double(), b.double()))
each = {'linear': (lambda x: F.linear(x, w), x), 'conv': (lambda x: F.conv2d(x, k), plane), 'attention': (lambda x: F.scaled_dot_product_attention(x, x, x), q),
        'bmm': (lambda x: torch.bmm(x[:, 0], x[:, 0].mT), q)}
for name, (f, at) in each.items():
    a, b, c = f(at), f(at), f(at[:1])
    res['same'][name] = torch.equal(a, b)
    res['batch'][name] = torch.equal(a[:1], c)
net = torch.nn.Linear(64, 32).requires_grad_()
net(x).sum().backward()
res['slope'] = far(net.weight.grad, x.sum(0).expand(32, 64))
res['other'], seen = hasattr(F.linear, 'is_other_cpu'), 'import torch; print(hasattr(torch.nn.functional.linear, "is_other_cpu"))'
if len(sys.argv) > 1: res['child'] = subprocess.run([sys.executable, '-c', seen], capture_output=True, text=True).stdout.strip()
print(json.dumps(res))
'''

def asked(*args, **env):
    known = {k: v for k, v in os.environ.items() if k not in ('OTHER_CPU', 'PYTHONPATH')}
    path = os.pathsep.join(p for p in os.environ.get('PYTHONPATH', '').split(os.pathsep)
                           if p and os.path.abspath(p) != HERE)
    more = {'PYTHONPATH': os.pathsep.join(filter(None, (env.pop('PYTHONPATH', ''), path)))}
    return json.loads(
        subprocess.run([sys.executable, '-c', ASK, *args], env={**known, **more, **env}, capture_output=True, text=True,
                       check=True).stdout)

def test_another_cpu_is_a_few_ulp_away(every):
    child = ['child']*every
    here, first = asked(*child), asked('child', PYTHONPATH=HERE)
    second = asked(*child, PYTHONPATH=HERE, OTHER_CPU='1')
    # who wants no torch gets none
    assert (here['other'], first['other'], second['other']) == (False, True, True) and first['light']
    # its children are of that CPU too
    assert first['child'] == 'True' and (not every or (here['child'], second['child']) == ('False', 'True'))
    for res in (first, second):
        # equal batches, equal bits; no others
        assert set(res['same'].values()) == {True} and set(res['batch'].values()) == {False} and res['zero'] == 0
        for name, v in res['far'].items():
            assert here['far'][name] < v < here['far'][name] + (12 if 'float32' in name else 4), name
        # a gradient is one of the same function
        assert res['slope'] < 8
    assert first['far'] != second['far']

def test_the_switch(request):
    assert hasattr(torch.nn.functional.linear,
                   'is_other_cpu') == (request.config.getoption('--other-cpu')
                                       or HERE in map(os.path.abspath,
                                                      os.environ.get('PYTHONPATH', '').split(os.pathsep)))
