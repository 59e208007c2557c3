"""Figures of the packages of 2022 and of timm, for tests/test_peers.py; they are computed once, by

    pip install --no-deps --target peers 'cf_guidance==0.0.3' 'dynamic_cfg==0.0.1' 'timm==1.0.31'
    python tools/peers.py peers > tests/peers.json

Only what is needed of each package is loaded, for they ask for more than the figures do."""
import importlib.util, json, sys, types
from pathlib import Path
import torch

COS = [
    dict(),
    dict(num_cycles=1, num_steps=10),
    dict(k_decay=.3, num_steps=10),
    dict(k_decay=2, num_steps=10),
    dict(num_warmup_steps=5, warmup_init_val=1.15),
    dict(num_warmup_steps=10, num_steps=10),
    dict(max_val=15, min_val=3, num_cycles=1.5, k_decay=.6, num_steps=30)
]
INERT = [
    dict(num_cycles=2, **kw)
    for kw in (dict(cycle_decay=.5, cycle_limit=5), dict(cycle_mul=2.), dict(cycle_mul=.5, cycle_decay=.9))
]
TIMM = [
    dict(t_initial=10),
    dict(t_initial=5, cycle_limit=4),
    dict(t_initial=5, cycle_limit=3, cycle_decay=.5),
    dict(t_initial=4, cycle_mul=2, cycle_limit=8),
    dict(t_initial=4, cycle_mul=1.5, cycle_decay=.7, cycle_limit=8, k_decay=.5),
    dict(t_initial=5, cycle_limit=2, k_decay=2.)
]

def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    mod = importlib.util.module_from_spec(spec)
    sys.modules[name] = mod
    spec.loader.exec_module(mod)
    return mod

def timm_values(root, n=20, top=7.5, low=.15, **kw):
    "What timm's scheduler sets at each of `n` steps"
    for name in ('timm', 'timm.scheduler'):
        sys.modules.setdefault(name, types.ModuleType(name)).__path__ = [str(root.joinpath(*name.split('.')))]
    load(root/'timm/scheduler/scheduler.py', 'timm.scheduler.scheduler')
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=top)
    sched = load(root/'timm/scheduler/cosine_lr.py',
                 'timm.scheduler.cosine_lr').CosineLRScheduler(optimizer, lr_min=low, **kw)
    return [sched._get_lr(t)[0] for t in range(n)]

def main(root):
    old, later = load(root/'cf_guidance/schedules.py', 'old_schedules'), load(root/'dynamic_cfg/schedules.py',
                                                                              'later_schedules')
    tfms, norms = load(root/'cf_guidance/transforms.py', 'old_transforms'), load(root/'dynamic_cfg/normalizers.py',
                                                                                 'later_norms')
    gen = torch.Generator().manual_seed(1)
    u, t = (torch.randn(2, 3, 4, 4, generator=gen, dtype=torch.float64) for _ in 'ut')
    preds = {
        name: getattr(tfms, name)({'g': [.15, 7.5]})(u, t, 1).tolist()
        for name in ('GuidanceTfm', 'BaseNormGuidance', 'TNormGuidance', 'FullNormGuidance')
    }
    for name, cls in norms.name2norm.items():
        norm = cls()
        norm.set_latents(u=u, t=t); norm.compute_update(); norm.pre_proc()
        norm.set_pred(norm.u + 7.5*norm.diff); norm.post_proc()
        preds[name] = norm.get_pred().tolist()
    print(
        json.dumps(
            dict(
                cos=[
                    dict(args=kw, old=old.get_cos_sched(**kw),
                         later=later.get_cos_sched(**kw) if hasattr(later, 'get_cos_sched') else None) for kw in COS
                ], timm=[dict(args=kw, vals=timm_values(root, **kw)) for kw in TIMM],
                inert=[dict(args=kw, old=old.get_cos_sched(10, **kw)) for kw in INERT], u=u.tolist(), t=t.tolist(),
                preds=preds)))

if __name__ == '__main__': main(Path(sys.argv[1]))
