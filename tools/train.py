"""Run a training notebook as a program, for as long as wanted:

    TRAIN_MINUTES=60 TRAIN_DIR=runs/shapes torchrun --nproc_per_node 2 tools/train.py nbs/training/unet.ipynb

or render shards of a thousand scenes each for one, on all cores but two:

    TRAIN_DIR=runs/scenes python tools/train.py shards 100

Without TRAIN_MINUTES the notebooks make a smoke run of a few steps in a temporary folder. What they share is here."""
import json, multiprocessing, os, sys, tempfile
from pathlib import Path
import numpy as np
import torch
import torch.distributed as dist
from cf_guidance.worlds import scenes
from cf_guidance.worlds.shapes import training_pairs

minutes = float(os.environ.get('TRAIN_MINUTES', 0))                   # 0: a smoke run
_temp = None if 'TRAIN_DIR' in os.environ else tempfile.TemporaryDirectory()
folder = Path(os.environ['TRAIN_DIR'] if _temp is None else _temp.name)
device = 'cuda' if torch.cuda.is_available() else 'cpu'
rank, world = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))

def average(model):
    "Average the parameters of a model over all processes, each of which has taken some steps alone"
    if world == 1: return
    params = [p.data for p in model.parameters()]
    flat = torch.cat([p.flatten() for p in params])
    dist.all_reduce(flat)
    for p, q in zip(params, (flat/world).split([p.numel() for p in params])): p.copy_(q.view_as(p))

def same(x):
    "The first process's number, for all"
    if world == 1: return x
    val = torch.tensor([float(x)])
    dist.broadcast(val, 0)
    return val.item()

def dataset(n, name='train', two=1/3):
    "`n` images and scenes for this process, rendered once and kept; a share `two` of the scenes has two things"
    path = folder/f'{name}{rank}_{round(100*two)}.npy'
    seed = [1, rank] if name == 'train' else [9, rank]
    pairs = training_pairs(n, seed, two=two)
    if not path.exists():
        scenes, imgs = [], np.lib.format.open_memmap(path.with_suffix('.tmp.npy'), 'w+', np.uint8, (n, 32, 32, 3))
        for i, (img, _, scene) in enumerate(pairs): imgs[i] = img; scenes.append(scene)
        os.replace(path.with_suffix('.tmp.npy'), path)
    else: scenes = [scene for _, _, scene in pairs]
    return np.load(path, mmap_mode='r'), scenes

def scene_dataset(n, name='train'):
    "`n` images, 64 x 64, of the rendered world for this process, rendered once and kept, and their scenes"
    path, seed = folder/f'{name}{rank}_scenes.npy', [1 if name == 'train' else 9, rank]
    if not path.exists():
        imgs = np.lib.format.open_memmap(path.with_suffix('.tmp.npy'), 'w+', np.uint8, (n, 64, 64, 3))
        for i, (img, *_) in enumerate(scenes.training_pairs(n, seed)): imgs[i] = img
        os.replace(path.with_suffix('.tmp.npy'), path)
    rng = np.random.default_rng(seed)
    return np.load(path, mmap_mode='r'), [scenes.random_scene(rng) for _ in range(n)]

def _shard(k): return folder/'shards'/f'{k}.npy'
def has_shard(k): return _shard(k).exists()

def shard(k, n=1000):
    "`n` images, 64 x 64, of the rendered world, rendered once and kept as shard `k`, and their scenes"
    path, rng = _shard(k), np.random.default_rng([1, 0, k])
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f'.{os.getpid()}.tmp.npy')
        np.save(part, np.stack([img for img, *_ in scenes.training_pairs(n, [1, 0, k])]))
        os.replace(part, path)
    return np.load(path, mmap_mode='r'), [scenes.random_scene(rng) for _ in range(n)]

def render_shards(count):
    "Render shards 0 to `count` - 1, in their order"
    with multiprocessing.Pool(max(1, (os.cpu_count() or 3) - 2)) as pool:
        for _ in pool.imap(shard, range(count)): pass

def to_tensor(imgs):
    "uint8 images, (b, h, w, 3), as floats from -1 to 1, (b, 3, h, w)"
    return torch.from_numpy(np.array(imgs)).permute(0, 3, 1, 2).float()/127.5 - 1

if __name__ == '__main__':
    # the notebook's `from train import ...` finds this very module
    sys.modules['train'] = sys.modules['__main__']
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if sys.argv[1] == 'shards': sys.exit(render_shards(int(sys.argv[2])))
    path = Path(sys.argv[1]).absolute()
    if world > 1: dist.init_process_group('gloo')
    torch.set_num_threads(max(1, torch.get_num_threads()//world))
    cells = [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']
    os.chdir(path.parent)
    exec(compile('\n\n'.join(c for c in cells if not c.startswith('#| hide')), str(path), 'exec'),
         {'__name__': '__main__'})
