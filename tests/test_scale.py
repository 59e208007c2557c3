"How much work a large sweep is: files opened, bytes read, pixels decoded and pages drawn are counted, not seconds"
import builtins, json
from unittest.mock import patch
import numpy as np
import pytest
from PIL import Image, ImageFile
from cf_guidance.cli.grid_pages import grid_files
from cf_guidance.records import failures, image_files, note_rows, read_recipe, read_record, viewer
from cf_guidance.adapters import as_pipeline, hosted_plans
from cf_guidance.sweeps import cells, Plan, plans
from cf_guidance.sweeps.core import load_model
from cf_guidance.sweeps.engines import engine_of
from cf_guidance.sampling import built_in, costs, Run, Settings
from cf_guidance.sweeps import Sweep
from cf_guidance.transforms import GuidanceTfm

SIZE = 256
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))

def noise(plan, progress=True):
    "One picture for every image, in place of the network's"
    for wave in plan.waves:
        plan.made += len(wave)
        yield {i: NOISE.copy() for i in wave}

def swept(n, **how): return Sweep(seed=list(range(n)), schedule=[5, 7], steps=2, sampler='ddim', size=SIZE, **how)

class Work:
    "Counts, while it is open: images opened, bytes read of them, pixels decoded, pages written, fingerprints looked up"
    def __enter__(self):
        self.opened = self.read = self.decoded = self.pages = self.marks = 0
        own, load, page, buffers = builtins.open, ImageFile.ImageFile.load, viewer._page, built_in().unet.buffers
        def opened(path, mode='r', *args, **kwargs):
            f = own(path, mode, *args, **kwargs)
            if mode != 'rb' or not str(path).endswith('.png'): return f
            self.opened += 1
            return Reading(f, self)
        def decoded(im): self.decoded += im.tile != []; return load(im)
        def written(*args): self.pages += 1; return page(*args)
        def weights(): self.marks += 1; return buffers()

        self.patches = [
            patch.object(image_files, 'open', opened, create=True),
            patch.object(ImageFile.ImageFile, 'load', decoded),
            patch.object(viewer, '_page', written),
            patch.object(built_in().unet, 'buffers', weights)
        ]
        for p in self.patches: p.start()
        return self
    def __exit__(self, *args):
        for p in self.patches: p.stop()

class Reading:
    "An open file that counts the bytes read"
    def __init__(self, f, work): self.f, self.work = f, work
    def read(self, *args): got = self.f.read(*args); self.work.read += len(got); return got
    def __getattr__(self, name): return getattr(self.f, name)
    def __enter__(self): return self
    def __exit__(self, *args): self.f.close()

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('many')
    with patch.object(Plan, 'images', noise): swept(20).run(folder, progress=False)
    return folder

def test_resume(folder):
    "A resume with nothing to make opens each image once, reads its beginning and its end, decodes no pixel and draws no page"
    image_files._header.cache_clear()
    before = (folder/'index.html').stat().st_mtime_ns
    with Work() as work: again = swept(20).run(folder, progress=False)
    size = next(c.file.stat().st_size for c in again.cells)
    assert all(c.made for c in again.cells) and again.made == 0
    assert (work.opened, work.decoded, work.pages) == (40, 0, 0) and (folder/'index.html').stat().st_mtime_ns == before
    assert work.read < 40*10_000 < 40*size/10
    with Work() as fewer: swept(10).run(folder, progress=False)
    assert work.marks == fewer.marks <= 6                       # the weights are not looked at for each image

def test_new_image_is_read_once(folder):
    "One more image: it is opened once, and the page is drawn once"
    image_files._header.cache_clear(); swept(20).run(folder, progress=False)
    with patch.object(Plan, 'images', noise), Work() as work: more = swept(21).run(folder, progress=False)
    assert more.made == 2 and (work.opened, work.decoded, work.pages) == (2, 0, 1)

def test_damaged_ends_are_made_anew(folder):
    "A file without its end, or of another image, is made again; so is one that is no PNG"
    first = swept(20).run(folder, progress=False).cells[:3]
    whole = [c.file.read_bytes() for c in first]
    for c, text in zip(first, (whole[0][:-1], whole[0], b'')): c.file.write_bytes(text)
    with patch.object(Plan, 'images', noise): again = swept(20).run(folder, progress=False)
    assert again.made == 3 - (whole[0] == whole[1]) and all(
        read_recipe(c.file)['seed'] == c.run.seed for c in again.cells)

def test_failures_are_added(tmp_path):
    "However many waves fail, a line is written once for each failure on the way, and the list once at the end"
    def broken(plan, progress=True):
        for wave in plan.waves: yield {i: ValueError(f'no {i}') for i in wave}
    rewritten, lines, whole, add = [], [], failures.write_whole, cells.add_failures
    def counted(path, write): rewritten.append(str(path)); return whole(path, write)
    def added(failed, folder): lines.extend(failed); return add(failed, folder)

    with patch.object(Plan, 'images', broken), patch.object(failures, 'write_whole',
                                                            counted), patch.object(cells, 'add_failures', added):
        sweep = swept(20).run(tmp_path, progress=False, batch_size=2)
    assert len(lines) == 40 == len((tmp_path/'failures.jsonl').read_text().splitlines())
    assert sum('failures' in p for p in rewritten) <= 2 and all(c.failed for c in sweep.cells)

def test_a_long_record_stays_in_the_lists(tmp_path):
    "What 5,000 calls saw is read back, and the image stays where it is listed"
    rows = [dict(step=k, g=7.5, u=1/3, t=2/3, words='x'*300) for k in range(5000)]
    def noted(plan, progress=True):
        for wave in plan.waves:
            images = {i: NOISE.copy() for i in wave}
            for im in images.values(): im.info['record'] = rows
            yield images
    with patch.object(Plan, 'images', noted): sweep = swept(1).run(tmp_path, progress=False)
    assert [len(read_record(c.file)) for c in sweep.cells] == [5000]*2 and all(c.image.size == (SIZE, SIZE)
                                                                                       for c in sweep.cells)
    assert len((tmp_path/'metadata.jsonl').read_text().splitlines()) == 2
    assert sum(len(json.loads(t)) for t in note_rows(rows).values()) == 5000

def test_grids(tmp_path):
    "The grid of a sweep is drawn once, ten pages at most, and again when an image is another"
    with patch.object(Plan, 'images', noise): sweep = swept(1).run(tmp_path, progress=False)
    files, more = grid_files(sweep, tmp_path)
    assert [f.name for f in files] == ['grid.png'] and not more
    with patch.object(Sweep, 'pages', lambda self: 1/0): assert grid_files(sweep, tmp_path) == (files, False)
    sweep.cells[0].file.touch()
    with patch.object(Sweep, 'pages', lambda self: 1/0), pytest.raises(ZeroDivisionError): grid_files(sweep, tmp_path)

def test_no_sweep_is_too_large_to_refuse():
    "Ten thousand million places are counted, and not listed"
    with pytest.raises(ValueError,
                       match='at most 100,000 places; got 10,000,000,000, of 100,000 seed x 100,000 schedule'):
        Sweep(seed=list(range(100_000)), schedule=[k/100 for k in range(100_000)])

@pytest.mark.parametrize('pipe', (False, True))
def test_runs_alike_are_read_once(pipe):
    "However many seeds there are, a plan reads one script for each prompt and schedule, and few trees are counted"
    where = hosted_plans if pipe else plans
    model = dict(pipe=as_pipeline()) if pipe else {}
    said = []
    for seeds in (1, 200):
        sweep = Sweep(prompt=['a red cone', 'a blue cube'], seed=range(seeds), schedule=[5, 7, [1, 5]], steps=2,
                      **model)
        with patch.object(where, 'script', wraps=where.script) as read, \
                patch.object(costs, '_count_tree', wraps=costs._count_tree) as trees:
            said.append(sweep.explain(timed=False))
        assert (read.call_count, trees.call_count <= 6) == (6, True), seeds
    first, many = [int(text.split('calls: ')[1].split()[0].replace(',', '')) for text in said]
    assert many == 200*first

class Mean(GuidanceTfm):
    "Guide by the mean of all predictions so far, which it keeps itself"
    mean = None
    def post_proc(self, u, t, idx):
        self.pred = self.mean = self.pred if self.mean is None else (self.mean + self.pred)/2

@pytest.mark.parametrize('engine', ('auto', 'hosted'))
def test_a_state_of_ones_own_stays_in_its_image(engine):
    "An image is the same beside others and alone, also where several runs have one transform"
    def made(seeds):
        sweep = Sweep(prompt='a red cone', seed=seeds, transform=Mean, schedule=3, steps=3, load=dict(engine=engine))
        return sweep.run(progress=False)
    two, alone = made([1, 2]), made([2])
    near = lambda image: np.abs(np.asarray(image, int) - np.asarray(alone.cells[0].image, int)).max() <= 1
    assert near(two.cells[1].image)
    model = load_model('scenes', engine=engine)
    tfm = Mean({'g': 3})
    runs = [Run('a red cone', tfm, seed) for seed in (1, 2)]
    maker = engine_of(model, Settings(steps=3)).of(runs)
    maker.begin()
    found = {k: v for wave in maker.plan(runs).images(progress=False) for k, v in wave.items()}
    assert near(found[1])
