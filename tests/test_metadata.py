"What those who guess the type of a column read in `metadata.jsonl`: Arrow, `datasets` and pandas"
import io, json
from itertools import product
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from cf_guidance.records import viewer
from cf_guidance.records.folders import sweep_cells, sweep_failures
from cf_guidance.records.failures import write_failures
from cf_guidance.records.image_files import save_image
from cf_guidance.records.metadata import _is_date, _typed, write_metadata
from cf_guidance.records.recipes import image_id

PLAIN = dict(version=2, model='0'*16, model_name='none', prompt='a red star', negative_prompt='', seed=1, rule='cfg',
             values={'g': [7.5]}, options={}, sampler='DDIMScheduler', sampler_config={}, steps=1, width=8, height=8,
             dtype='float32')
DATES = [
    '2022-11-15', '2022-11-15 10', '2022-11-15T10:00', '2022-11-15 10:00:00Z', '2024-02-29', '2022-11-15 10:00+01:00',
    '2022-11-15T23:59:59-0730', '0000-01-01', '2022-11-15 10+01'
]
NO_DATES = [
    '2022-11', '2022', '2022-13-15', '2023-02-29', '20221115', '10:00', '2022-11-15 ', '2022-11-15 10:00:00.5',
    '2022-11-15 24:00', '2022-11-15 1000', '2022-11-15 10:00+25', '2022-11-15t10:00', '1e5', 'nan', 'null', 'None',
    'NaN', 'inf', 'true', '', ' ', '007', '0x10', '1_000', '1,5', 'NA', '9'*30, '{"a": 1}', '[1]', '"', '\\', '\n',
    'a\0b', '\u2028', '★', '\ufeff2022-11-15', '２022-11-15'
]

@pytest.fixture(autouse=True)
def offline(monkeypatch):
    for k in ('HF_HUB_OFFLINE', 'HF_DATASETS_OFFLINE'): monkeypatch.setenv(k, '1')

def made(folder, rows):
    "A folder of small images with these recipes"
    for i, row in enumerate(rows): save_image(Image.new('RGB', (8, 8)), {**PLAIN, 'steps': i + 1, **row}, folder)
    return write_metadata(folder)

def loaded(folder, cache):
    "The rows that `datasets` reads, by the number of steps, which tells one from another"
    datasets = pytest.importorskip('datasets', reason="datasets comes with the extra 'dev'")
    res = datasets.load_dataset('imagefolder', data_dir=str(folder), cache_dir=str(cache))
    assert list(res) == ['train']
    return sorted(res['train'].remove_columns('image').to_list(), key=lambda r: r['steps'])

def arrow(lines):
    "The table that Arrow reads"
    return pytest.importorskip('pyarrow.json', reason="pyarrow comes with the extra 'dev'").read_json(
        io.BytesIO(''.join(lines).encode()))

def test_dates_are_those_of_arrow():
    "A text is taken for a date where Arrow takes it for one"
    kind = lambda text: str(arrow([json.dumps({'v': text}) + '\n']).schema.field('v').type)
    times = [
        f'2022-11-15{sep}{at}{zone}'
        for sep, at, zone in product(' T', ('10', '10:00', '10:00:00', '10:60', '1000'), ('', 'Z', '+01', '-0730',
                                                                                          '+23:59', '+24:00'))
    ]
    for text in [*DATES, *NO_DATES, *times]: assert _is_date(text) == kind(text).startswith('timestamp'), text
    assert all(map(_is_date, DATES)) and not any(map(_is_date, NO_DATES))

COLUMNS = {
    'texts of every kind': NO_DATES, 'a date among texts': [*DATES, 'a star'], 'empty texts': ['', ''],
    'digits': ['1', '22', '-3'], 'years': ['2022', '2023'], 'numbers': ['1e5', 'nan', 'inf']
}

@pytest.mark.parametrize('name', COLUMNS)
def test_texts_come_back(name, tmp_path):
    "Prompts, titles, labels and names of models are what they were"
    texts = COLUMNS[name]
    wrote = [dict(prompt=t, negative_prompt=t, title=t, model_name=t, labels={t: t}) for t in texts]
    path = made(tmp_path/'s', wrote)
    for row, want in zip(loaded(tmp_path/'s', tmp_path/'cache'), wrote, strict=True):
        assert {k: row[k]
                for k in want
                if k != 'labels'} == {k: v
                                      for k, v in want.items()
                                      if k != 'labels'} and json.loads(row['recipe'])['labels'] == want['labels']
    read = pytest.importorskip('pandas').read_json(path, lines=True, dtype=False).sort_values('steps')
    assert read['prompt'].tolist() == texts and read['title'].tolist() == texts

def test_dates_stay_texts(tmp_path):
    "A column of nothing but dates is text, all of it but a space as it was; the recipe is exact"
    made(tmp_path/'s', [dict(prompt=t, title=t, model_name=t) for t in DATES])
    rows = loaded(tmp_path/'s', tmp_path/'cache')
    for k in ('prompt', 'title', 'model_name'):
        assert [r[k].rstrip() for r in rows] == DATES and [json.loads(r['recipe'])[k] for r in rows] == DATES
        assert sum(r[k] != t for r, t in zip(rows, DATES)) == 1

@pytest.mark.parametrize('seeds',
                         [[7, 2**53 + 1, -2**63, 2**63 - 1], [7, 2**63, 2**63 + 1, 2**64 - 1], [-1, 2**64 - 1]],
                         ids=str)
def test_seeds_come_back(seeds, tmp_path):
    "Every seed is the seed that it was, as a number where all fit into 64 bits with a sign"
    path = made(tmp_path/'s', [dict(seed=s) for s in seeds])
    read = [r['seed'] for r in loaded(tmp_path/'s', tmp_path/'cache')]
    assert [int(s) for s in read] == seeds and {type(s) for s in read} == {int if max(seeds) < 2**63 else str}
    read = pytest.importorskip('pandas').read_json(path, lines=True, dtype=False).sort_values('steps')['seed']
    assert [int(s) for s in read] == seeds

def test_half_a_character_does_not_hide_a_folder(tmp_path):
    "A title that is no text costs its one character, not the whole folder"
    made(tmp_path/'s', [dict(title='a\ud83eb'), dict(title='a star')])
    assert [r['title'] for r in loaded(tmp_path/'s', tmp_path/'cache')] == ['a?b', 'a star']

@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(DATES[:3]), st.sampled_from([*DATES[:3], 'a', ''])), min_size=1, max_size=30),
       st.integers(1, 300))
def test_parts_of_a_file_have_one_type(rows, most):
    "However many bytes a reader takes at a time, every text column is text"
    lines, part = _typed([dict(seed=i, a=a, b=b) for i, (a, b) in enumerate(rows)], most), []
    for i, line in enumerate(lines):
        part.append(line)
        if sum(map(len, part)) < most and i + 1 < len(lines): continue
        assert [str(arrow(part).schema.field(k).type) for k in 'ab'] == ['string', 'string']
        part = []
    assert [(r['a'].rstrip(), r['b'].rstrip()) for r in map(json.loads, lines)] == rows

def test_no_name_makes_a_split(tmp_path):
    "`datasets` looks for test, train and the like in names; no file of ours and no folder's name is taken for one"
    for folder in ('test', 'train_1', 'my-valid-run', 'eval 2'):
        made(tmp_path/folder, [{}])
        for name in ('index.html', 'failures.jsonl', 'report.html', 'grid-1.png'):
            (tmp_path/folder/name).write_bytes(b'x')
        assert len(loaded(tmp_path/folder, tmp_path/'cache')) == 1
    hexes = {image_id({**PLAIN, 'seed': s}) for s in range(50)}
    assert all(set(name) <= set('0123456789abcdef') for name in hexes)       # no word of theirs is spelled in these

def test_warnings_are_of_the_line_that_asked(tmp_path):
    "What is left out of a list is warned of where the list was asked for, however many functions are between"
    made(tmp_path, [{}])
    Image.new('RGB', (8, 8)).save(tmp_path/'images/plain.png')
    with pytest.warns(UserWarning, match='left out') as said:
        for ask in (write_metadata, sweep_cells, viewer.renew_viewer): ask(tmp_path)
        for ask in (sweep_failures, lambda d: write_failures([], d)):
            (tmp_path/'failures.jsonl').write_text('{"torn')
            ask(tmp_path)
    assert len(said) == 5 and {w.filename for w in said} <= {__file__, viewer.__file__}
