"A recipe is data: an edited one is one clear error, before anything is imported, asked or built; what is damaged is left out and said"
import copy, json, os, pickle, signal, socket, sys, time
import numpy as np, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from cf_guidance.records import sweep_cells, sweep_failures
from cf_guidance.transforms import guidance
from cf_guidance.pieces import get_sd_pieces
from cf_guidance.records import former_images, open_folder, read_recipe, recipe, rerun, save_image
from cf_guidance.records import write_metadata
from cf_guidance.records import KEY, write_whole
from cf_guidance.sampling import generate
from cf_guidance.schedules import MAX_LEVELS, MAX_NESTED, Schedule, linear
from cf_guidance.sweeps import Sweep

DEEP = '[null]'
for _ in range(7): DEEP = f'[{DEEP},{{"a":{DEEP}}}]'
NESTED = json.loads(DEEP)
VERY_DEEP = ['['*n + ']'*n for n in (MAX_NESTED + 1, 900, 100_000)]
GONE = object()

@pytest.fixture(scope='module')
def pieces(): return get_sd_pieces(device='cpu')

@pytest.fixture(scope='module')
def good(tmp_path_factory, pieces):
    "An image of three steps, with its recipe, and the same of a rule with many options"
    tfm, how = guidance('apg', g=3.), dict(steps=3, sampler='ddim', seed=1)
    image = generate('a red cone', tfm, pieces, progress=False, **how)
    path = save_image(image, recipe('a red cone', tfm, pieces, **how), tmp_path_factory.mktemp('good'))
    assert (np.asarray(rerun(path, pieces, progress=False)) == np.asarray(image)).all()
    return path

def edited(good, path, changes, drop=()):
    "The image with another recipe, whose entries are changed or are gone"
    r = read_recipe(good)
    for k, v in changes.items():
        at = r
        *way, last = k.split('.')
        for w in way: at = at[w]
        if v is GONE: del at[last]
        else: at[last] = v
    return told(good, path, json.dumps(r))

def told(good, path, text):
    info = PngInfo()
    info.add_text(KEY, text)
    with Image.open(good) as im: im.save(path, pnginfo=info)
    return path

HUGE = 10**30
EDITS = [
    *[(k, GONE, k) for k in ('version', 'model', 'model_name', 'prompt', 'negative_prompt', 'seed', 'rule', 'values',
                             'options', 'sampler', 'sampler_config', 'steps', 'width', 'height', 'dtype')],
    *[(k, [1], k) for k in ('version', 'model', 'model_name', 'prompt', 'negative_prompt', 'seed', 'rule', 'values',
                            'options', 'sampler', 'sampler_config', 'steps', 'width', 'height', 'dtype')],
    *[(k, 'text', k) for k in ('version', 'seed', 'values', 'options', 'sampler_config', 'steps', 'width', 'height',
                               'exact', 'labels', 'embeds')], *[(k, v, k)
                                                                for k in ('version', 'seed', 'steps', 'width', 'height')
                                                                for v in (HUGE, 1.5, True, -HUGE)],
    *[(k, v, k)
      for k in ('steps', 'width', 'height')
      for v in (0, 10**9)], *[(k, NESTED, k)
                              for k in ('version', 'model', 'prompt', 'seed', 'rule', 'values', 'options',
                                        'sampler', 'sampler_config', 'steps', 'dtype', 'title', 'labels', 'exact')],
    *[('sampler', v, 'sampler') for v in ('StableDiffusionPipeline', 'FluxTransformer2DModel', 'DDIMInverseScheduler',
                                          'ddim', 'NoSuchScheduler', '__builtins__', 'utils', '', 'x'*100_000)],
    *[('compile', v, 'compile') for v in ('evil', '', None, True, ['onnx'], NESTED)],
    *[('dtype', v, 'dtype') for v in ('load', 'int8', 'complex64', 'hub', 'Tensor', '__dict__')],
    *[('model_name', v, 'pieces') for v in ('someone/something', 'https://example.com/model', '//host/share',
                                            '\\\\host\\share', 'no such', '', 'a\0b', '~nosuchuser/x', 'x'*100_000)],
    ('model_name', '../'*200,
     'model_name'), *[('rule', v, 'tfm') for v in ('Mine:0123456789abcdef', 'os.system', None, 'CFG', '', 'x'*100_000)],
    ('sampler_config', 'someone/something', 'sampler_config'), ('sampler_config', None, 'sampler_config'),
    *[(f'sampler_config.{k}', v, 'sampler_config')
      for k, v in dict(num_train_timesteps=10**12, beta_start='a', beta_end=1e300, beta_schedule='evil',
                       trained_betas=[[1]], set_alpha_to_one=3, steps_offset=HUGE, clip_sample_range=[1],
                       timestep_spacing=['a'], rescale_betas_zero_snr='yes').items()],
    ('sampler_config.num_train_timesteps', 'x', 'sampler_config'),
    ('sampler_config.trained_betas', [.1]*200_000, 'sampler_config'),
    ('sampler_config.prediction_type', 'sample',
     'sampler'), *[('values.g', v, 'g')
                   for v in ([], 3, 'a', [1.]*2, [1.]*200_000, [float('nan')]*3, [1e300]*3, [[1.]]*3, [None]*3)],
    ('values', {}, 'values'), ('values.os', [1.]*3, 'values'), ('values.g', GONE, 'values'),
    ('options.unknown', 1, 'options'), ('options.per_sample', 'yes', 'per_sample'),
    ('options.weak_model', 'someone/something', 'options'), ('options', [['a', 1]], 'options'),
    ('model', 'x'*16, 'model'), ('model', '0'*16, 'fingerprint'), ('weak_model', 'someone/something', 'weak_model'),
    ('init_image', 'file:///etc/passwd', 'init_image'), ('init_image', '0'*16, 'init_image'),
    ('strength', HUGE, 'init_image'), ('embeds', {'prompt': 'someone/something'}, 'prompt'),
    ('embeds', {'other': '0'*16}, 'embeds'), ('title', [1], 'title'), ('labels', {'a': [1]}, 'labels'),
    ('prompt', 'x'*2_000_000, 'prompt'), ('prompt', '['*90_000, 'prompt'), ('prompt', '['*900, 'prompt'),
    ('negative_prompt', '\ud800', 'negative_prompt'), ('version', 3, 'version'), ('entry of 2030', 1, 'entry of 2030')
]

@pytest.fixture
def alone(monkeypatch):
    "No network: whoever asks is noted, and gets nothing"
    asked = []
    def refuse(*args, **kwargs): asked.append(args); raise OSError('no network in this test')
    for name in ('connect', 'connect_ex'): monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    return asked

def test_edited_recipes(good, pieces, tmp_path, alone):
    "Each field, missing, of another type, absurd, unknown or nested: a `ValueError` that names it, within a second"
    assert len(EDITS) > 100
    # all is imported
    for more in (dict(), dict(pieces=pieces)):
        refused(edited(good, tmp_path/'a.png', {'sampler': 'x'}), 'sampler', **more)
    known = set(sys.modules)
    for k, v, names in EDITS:
        path = edited(good, tmp_path/'a.png', {k: v})
        refused(path, names)
        if k not in ('model_name',) and names != 'fingerprint': refused(path, names, pieces=pieces)
    assert set(sys.modules) == known and not alone

def refused(path, names, **given):
    began = time.process_time()
    with pytest.raises(ValueError) as e: rerun(path, progress=False, **given)
    assert f'`{names}`' in str(e.value) or names in str(e.value), (path, names, str(e.value)[:300])
    assert len(str(e.value)) < 3000 and time.process_time() - began < 1, (names, str(e.value)[:300])

@pytest.mark.parametrize('text', [
    *VERY_DEEP, *[f'{{"prompt":{t}}}' for t in VERY_DEEP], '5', '"a"', 'null', '[]', '{', '', '{"a":' + '9'*5000 + '}',
    'NaN', '[1e999]'
], ids=range(15))
def test_recipes_that_are_none(text, good, pieces, tmp_path, alone):
    refused(told(good, tmp_path/'a.png', text), '', pieces=pieces)
    assert not alone

def test_the_size_is_that_of_the_image(good, pieces, tmp_path):
    "A small file cannot ask for a huge image"
    refused(edited(good, tmp_path/'a.png', {'width': 8192, 'height': 8192}), 'width', pieces=pieces)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | st.text(max_size=8)
    | st.sampled_from(['DDIMScheduler', 'shapes', 'float32', 'cfg', 'g']),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(['g', 'a', 'prompt', 'num_train_timesteps']), inner, max_size=3), max_leaves=8)

@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_place(data, good, pieces, tmp_path):
    "Whatever stands in an entry: the recipe is taken, and made as it says, or refused by a `ValueError`"
    r = read_recipe(good)
    name = data.draw(st.sampled_from(sorted(r)))
    value = data.draw(JSON)
    path = edited(good, tmp_path/'a.png', {name: value})
    try: rerun(path, pieces, progress=False)
    except ValueError as e: assert str(e)

def test_old_and_other_recipes_are_taken(pieces, tmp_path):
    "Configs that hold what another sampler had, titles, labels, whole numbers as floats"
    tfm, how = guidance('cfg', g=linear(6, 2)), dict(steps=3, sampler='euler', seed=2)
    image, r = generate('a red cone', tfm, pieces, progress=False, **how), recipe('a red cone', tfm, pieces, **how)
    for k, change in enumerate(({}, {'title': 5.5, 'labels': {'g': 3, 'b': 'x'}}, {
            'sampler_config': {
                **r['sampler_config'], 'of another': {'deep': [1, [2]]}, '_class_name': 'StableDiffusionPipeline'
            }
    }, {'values': {'g': [float(v) for v in r['values']['g']]}}, {
            'sampler_config': {
                k: float(v) if type(v) is int else v
                for k, v in r['sampler_config'].items()
                if k != 'num_train_timesteps'
            }
    })):
        kept = save_image(image, {**r, **change}, tmp_path/str(k))
        assert (np.asarray(rerun(kept, pieces, progress=False)) == np.asarray(image)).all()

def small(folder, **kw):
    return Sweep(**{**dict(schedule=[3.], seed=[1, 2], steps=2, sampler='ddim'), **kw}).run(
                        folder, get_sd_pieces(device='cpu'), progress=False)

@pytest.mark.parametrize('text', VERY_DEEP, ids=[len(t)//2 for t in VERY_DEEP])
def test_a_deep_record_ends_no_sweep(text, good, pieces, tmp_path):
    "A recipe in a PNG, a line of either list: what is nested very deep is left out and said, and the sweep goes on"
    small(tmp_path)
    told(good, tmp_path/'images/deep.png', text)
    told(good, tmp_path/'images/deeper.png', f'{{"version":1,"prompt":{text}}}')
    row = json.loads((tmp_path/'metadata.jsonl').read_text().splitlines()[0])
    with open(tmp_path/'metadata.jsonl', 'a') as f:
        f.write(f'{text}\n{json.dumps({**row, "file_name": "images/other.png", "recipe": text})}\n')
    lines = [
        text, f'{{"id":"{"0"*16}","reason":"deep","recipe":{text}}}',
        f'{{"id":"{"0"*16}","reason":"deep","recipe":{{"prompt":{text}}}}}'
    ]
    (tmp_path/'failures.jsonl').write_text('\n'.join(lines) + '\n')
    for read in (sweep_cells, sweep_failures):
        with pytest.warns(UserWarning, match='left out'): read(tmp_path)
    assert former_images(tmp_path, pieces) == {}
    with pytest.warns(UserWarning) as said: again = small(tmp_path, seed=[1, 2, 3])
    assert sum(c.made for c in again.cells) == 3 and len((tmp_path/'metadata.jsonl').read_text().splitlines()) == 3
    words = [str(w.message) for w in said]
    for part in ('metadata.jsonl: deep.png', 'metadata.jsonl: deeper.png', 'failures.jsonl'):
        assert any(f'left out of {part}' in w for w in words), words
    with pytest.warns(UserWarning, match='record'): assert len(sweep_cells(tmp_path)) == 3

@pytest.mark.parametrize('change',
                         [{'seed': 'a'}, {'seed': 1.5}, {'steps': '3'}, {'steps': HUGE}, {'width': None}, {'prompt': 5},
                          {'dtype': ['a']}, {'sampler': {'a': 1}}, {'seed': True}, {'rule': 5}, {'values': 3}], ids=str)
def test_columns_keep_their_types(change, good, tmp_path):
    "An edited recipe does not put a second type into a column: its image is left out of the list, and said"
    folder = tmp_path/'s'
    for seed in (1, 2): save_image(Image.new('RGB', (32, 32)), {**read_recipe(good), 'seed': seed}, folder)
    edited(good, folder/'images/odd.png', change)
    with pytest.warns(UserWarning, match='left out of metadata.jsonl: odd.png'):
        rows = [json.loads(l) for l in write_metadata(folder).read_text().splitlines()]
    assert len(rows) == 2 and len({tuple((k, type(v)) for k, v in r.items()) for r in rows}) == 1

def test_a_bomb_ends_no_sweep(tmp_path):
    "An image that says it is larger than any memory is left out"
    import struct, zlib

    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    small(tmp_path)
    (tmp_path/'images/bomb.png').write_bytes(b'\x89PNG\r\n\x1a\n' +
                                             chunk(b'IHDR', struct.pack('>IIBBBBB', 2**20, 2**20, 8, 2, 0, 0, 0)) +
                                             chunk(b'IDAT', b'') + chunk(b'IEND', b''))
    with pytest.warns(UserWarning, match='left out of metadata.jsonl: bomb.png'): small(tmp_path)
    assert len((tmp_path/'metadata.jsonl').read_text().splitlines()) == 2

def deepest(kind):
    s = linear(6, 2)
    while s.levels < MAX_LEVELS:
        s = {'clip': lambda s: s.clip(0, 10), 'scale': lambda s: .5*s,
             'then': lambda s: s.then(linear(1, 2), at=.5)}[kind](s)
    return s

@pytest.mark.parametrize('kind', ['clip', 'scale', 'then'])
@pytest.mark.parametrize('depth', [0, 400])
def test_deep_values(kind, depth):
    "A schedule of as many levels as there may be is a value, also for one who is deep in calls already"
    s, t = deepest(kind), deepest(kind)
    def at(n, f): return at(n - 1, f) if n else f()
    def checks():
        assert s == t and hash(s) == hash(t) and repr(s) == repr(t) and s != linear(
            6, 2) and s != deepest('clip' if kind != 'clip' else 'scale')
        assert copy.deepcopy({'g': s})['g'] == s and len(s.values(3)) == 3 and json.loads(s.to_json())
        if not depth: assert Schedule.from_json(s.to_json()) == s == pickle.loads(pickle.dumps(s))
        return True
    assert at(depth, checks)

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000),
       st.sampled_from(['[', '{"curve":', '{"curve":"clip","lo":0,"hi":1,"a":', '{"curve":"constant","val":']),
       st.booleans())
def test_deep_json_is_a_value_error(n, opening, closed):
    "However deep, and whether it ends or not"
    close = {'[': ']'}.get(opening, '}')
    try: Schedule.from_json(opening*n + '1' + close*n*closed)
    except ValueError: return
    assert n == 1 or opening.endswith('"a":') and n < MAX_LEVELS

class Writer:
    "A process that begins a file, and ends it when it is told to"
    def __init__(self, path):
        (said, self.begun), (self.go, heard) = os.pipe(), os.pipe()[::-1]
        self.pid = os.fork()
        if self.pid == 0:
            def write(f): f.write(b'half'); f.flush(); os.write(self.begun, b'x'); os.read(heard, 1)
            try: write_whole(path, write)
            finally: os._exit(0)
        assert os.read(said, 1) == b'x'
    def end(self): os.write(self.go, b'x'); os.waitpid(self.pid, 0)
    def kill(self): os.kill(self.pid, signal.SIGKILL); os.waitpid(self.pid, 0)

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='it kills a process of its own')
def test_temporary_files(tmp_path):
    "That of a killed process goes when the folder is opened again; that of a live one stays, and becomes its file"
    open_folder(tmp_path)
    dead, live = Writer(tmp_path/'a'), Writer(tmp_path/'b')
    assert len(list(tmp_path.glob('.*.tmp'))) == 2
    dead.kill(); open_folder(tmp_path)
    assert len(list(tmp_path.glob('.*.tmp'))) == 1 and not (tmp_path/'b').exists()
    live.end(); open_folder(tmp_path)
    assert (tmp_path/'b').read_bytes() == b'half' and {p.name for p in tmp_path.iterdir()} == {'images', 'b'}

def test_rights_of_a_file(tmp_path, monkeypatch):
    "A file has the rights that any new file has, and the process's mask is left alone"
    mask = os.umask(0o027)
    def touched(*_): raise AssertionError('the mask is the whole process\'s')
    try:
        monkeypatch.setattr(os, 'umask', touched)
        write_whole(tmp_path/'a', lambda f: f.write(b'x')); (tmp_path/'b').write_bytes(b'x')
    finally: monkeypatch.undo(); os.umask(mask)
    assert (tmp_path/'a').stat().st_mode == (tmp_path/
                                             'b').stat().st_mode and (tmp_path/'a').stat().st_mode & 0o777 == 0o640

def test_what_we_write_takes_the_place_of_a_link(tmp_path):
    "The lists, the grid, the page and the report: what a link led to stays as it was"
    from cf_guidance.cli import cfg_eval, cfg_sweep
    folder, theirs, names = tmp_path/'s', tmp_path/'theirs', ('metadata.jsonl', 'index.html', 'grid.png', 'report.html')
    (folder/'images').mkdir(parents=True); theirs.write_text('theirs')
    for name in names: (folder/name).symlink_to(theirs)
    cfg_sweep(schedule='1,3', seed='1-2', steps='2', sampler='ddim', out=str(folder))
    cfg_eval(str(folder))
    assert theirs.read_text() == 'theirs' and not any((folder/n).is_symlink() for n in names) and all(
        (folder/n).stat().st_size > 100 for n in names)
