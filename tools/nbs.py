"Notebook chores that nbdev 2.4 leaves to Quarto: run in place, build the site, write README.md"
import base64, io, json, re, shutil, subprocess, sys
from dataclasses import is_dataclass
from html import unescape
from importlib import import_module
from inspect import Parameter, isclass, isfunction, signature, unwrap
from multiprocessing import get_context
from pathlib import Path
from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell
from fastcore import docments
from fastcore.basics import AttrDict
from fastcore.foundation import working_directory
from nbdev import processors
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.doclinks import _build_modidx
from nbdev.process import extract_directives
from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
from nbdev.serve import proc_nbs
from PIL import Image
from yaml import safe_load

sys.path.insert(0, str(Path(__file__).parent))      # found beside this file, also where runpy runs it
from pictures import for_both_themes

cfg = get_config()
root, site = cfg.config_path, cfg.doc_host + cfg.doc_baseurl
sys.path.insert(0, str(root))            # import the checkout, installed or not, as `nbdev_test` does
COLAB = 'https://colab.research.google.com/github/'
WIDGET = 'application/vnd.jupyter.widget-view+json'
num = re.compile(r'(?<!\w)\d+[a-zA-Z0-9]*_(?=[\w.]+\.ipynb)')      # nbdev drops this prefix from page names

def light(png):
    "The same picture in 256 colours, at a third of the weight; base64 in and out"
    im, out = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
    im.convert('RGB').quantize(256, kmeans=2, dither=Image.Dither.NONE).save(out, 'png', optimize=True)
    return base64.b64encode(out.getvalue()).decode()

def play(nb, fn):
    "Run the cells of notebook `fn`, read as `nb`, in a fresh shell, as `nbdev_test --flags heavy` would"
    skip = set(cfg.tst_flags.split()) - {'heavy'}
    def _skip(cell):
        if cell.cell_type != 'code' or 'nbdev_export(' in cell.source: return True
        d = extract_directives(cell, remove=False)
        return d.get('eval:', [''])[0].lower() == 'false' or skip & d.keys()
    for c in nb.cells:
        if not _skip(c): c.outputs = []          # a cell that says nothing now would keep what it said before
    shell = CaptureShell(fn, mpl_format='png')
    with working_directory(fn.parent): shell.run_all(nb, exc_stop=True, preproc=_skip)

def numbers(text):
    "A printed object with each number of numpy as Python writes it"
    return re.sub(r'\bnp\.(?:float|int|uint|bool)[\d_]*\(([^()]*)\)', r'\1', text)

def worth_keeping(out):
    "Whether an output is for the reader: no warning or progress bar, no widget, and no object that drawing returns"
    text = ''.join(out.get('data', {}).get('text/plain', '')) if out['output_type'] == 'execute_result' else ''
    return (out.get('name') != 'stderr' and WIDGET not in out.get('data', {}) and
            not re.match(r'[\[({\s]*(<matplotlib|<Axes|<Figure|<function|Text\()', text))

def run(fn):
    "Run notebook `fn` and store its outputs"
    nb = read_nb(fn)
    play(nb, fn)
    for c in nb.cells:
        if c.cell_type != 'code': continue
        c.outputs = [o for o in c.outputs if worth_keeping(o)]
        for o in c.outputs:
            if 'image/png' in o.get('data', {}): o['data']['image/png'] = light(o['data']['image/png'])
            text = ''.join(o.get('data', {}).get('text/plain', ''))
            if text: o['data']['text/plain'] = numbers(text).splitlines(True)
    write_nb(nb, fn)

def all_nbs():
    return [
        f for f in sorted(cfg.nbs_path.rglob('*.ipynb'))
        if not f.name.startswith('_') and '.ipynb_checkpoints' not in f.parts
    ]

def readme(nb):
    "GitHub Markdown of processed notebook `nb`, with links between notebooks sent to the site"
    res = []
    for c in nb['cells']:
        src = ''.join(c['source']).strip()
        if c['cell_type'] == 'raw':
            fm = safe_load(src.strip('-\n'))
            res += [f"# {fm['title']}"] + ([f"> {fm['description']}"] if 'description' in fm else [])
        elif c['cell_type'] == 'markdown': res.append(src)
        else:
            res.append('```python\n' + re.sub(r'^#\|.*\n?', '', src, flags=re.M).strip() + '\n```')
            txt = [
                ''.join(o.get('text') or o.get('data', {}).get('text/plain', ''))
                for o in c.get('outputs', [])
                if 'image/png' not in o.get('data', {})
            ]
            res += ['\n'.join('    ' + l for l in t.splitlines()) for t in txt if t]
    text = re.sub(r'\]\(((?:\w+/)*)(?:\d+[a-zA-Z0-9]*_)?([\w.]+)\.ipynb', rf']({site}/\1\2.html', '\n\n'.join(res))
    return text.replace('](images/', '](nbs/images/') + '\n'

def in_columns(out):
    "A printed text, marked where three lines or more have gaps in them, as a table has, and where it is a wide one"
    lines = unescape(re.sub('<[^>]*>', '', out[2])).splitlines()
    rows = [line for line in lines if re.search(r'\S {2,}\S', line)]
    if len(rows) < 3: return out[0]
    return f'{out[1]} class="columns{" wide"*(max(map(len, rows)) > COLUMNS)}"{out[2]}'

COLUMNS, MANY = 100, 8                   # of code and prints on a screen of 1280 pixels, and of a table that is small
CODE = re.compile(r'(<pre class="sourceCode[^>]*><code[^>]*>|<pre><code>)(.*?)(</code></pre>)', re.S)

def in_lines(code):
    "A listing with a span around each line, so that what wraps is indented below it"
    res, within = [], []
    for line in code[2].split('\n'):
        begin = ''.join(within)
        for closes, tag in re.findall(r'<(/?)((?:span|a)\b[^>]*)>', line):
            if closes: within.pop()
            else: within.append(f'<{tag}>')
        end = ''.join(f'</{tag[1:].split()[0].rstrip(">")}>' for tag in reversed(within))
        indent = len(re.match('(?:<[^>]*>)*( *)', line)[1])
        res.append(f'<span class="line"{f" style=--in:{indent}"*(indent > 0)}>{begin}{line}{end}</span>')
    return code[1] + '\n'.join(res) + code[3]

def of_many(table):
    "A table, marked where it has many columns"
    if len(re.findall('<th[ >]', table[0].partition('</tr>')[0])) < MANY: return table[0]
    tag, rest = table[0].split('>', 1)
    tag = tag.replace(' class="', ' class="many ', 1) if ' class="' in tag else f'{tag} class="many"'
    return f'{tag}>{rest}'

def in_code(caption): return caption[1] + re.sub('`([^`<]+)`', r'<code>\1</code>', caption[2])

def mended(html):
    "The page with each picture's caption as its words for those who do not see it, folded tests and plain signatures"
    # a cell that only tests is folded by `code-fold: true`, and says so; Quarto reads these words from `_quarto.yml`
    html = html.replace('<summary>Code</summary>', '<summary>The test of these figures</summary>')
    # nbdev links names in a signature's comments too
    html = re.sub(r'\[(`[\w.]+`)\]\(http[^)]*\)', r'\1', html)
    # takes the type of a default for that of a parameter, and has no word for a function without a name
    html = html.replace(':NoneType<span', '<span')
    tags = '(?:<[^>]*>)*'
    html = re.sub(f'(?::function)?({tags}={tags})&lt;{tags}(?:lambda|factory){tags}&gt;', r'\1...', html)
    # and links private names, which have no entry
    html = re.sub(r'<a [^>]*href="[^"]*#_\w+"[^>]*>(.*?)</a>', r'\1', html)
    printed = re.compile(r'(<div class="cell-output cell-output-stdout[^>]*>\s*<pre)(>.*?</pre>)', re.S)
    html = CODE.sub(in_lines, printed.sub(in_columns, html))
    html = re.sub(r'<table\b.*?</table>', of_many, html, flags=re.S)
    html = re.sub(r'(<figcaption[^>]*>)(.*?)(?=</figcaption>)', in_code, html, flags=re.S)
    return re.sub(r'<img (?![^>]*\balt=)([^>]*>(?:(?!<img ).)*?<figcaption[^>]*>(.*?)</figcaption>)',
                  lambda m: f'<img alt="{re.sub("<[^>]*>", "", m[2])}" {m[1]}', html, flags=re.S)

def to_source(html, file):
    "The page with a link to its notebook's own file, and where there is a tutorial one that opens it in Colab"
    repo = f'{cfg.user}/{cfg.repo}/blob/{cfg.branch}/nbs/'
    link = re.compile(rf'href="https://github.com/{repo}([^"]+)" class="toc-action"( [^>]*)?>(.*?)</a>', re.S)
    if not link.search(html): sys.exit(f'no link to the source of {file}')
    page = f'href="https://github.com/{repo}{file}" class="toc-action"'
    colab = f'</a></div><div class="action-links"><a class="toc-action" href="{COLAB}{repo}{file}">Open in Colab</a>'
    tutorial = file.startswith(('tutorials/', 'gallery', 'model_card'))
    return link.sub(lambda m: f'{page}{m[2] or ""}>{m[3]}' + (colab if tutorial else '</a>'), html, count=1)

def exported(cls):
    "The class of the package that a notebook defines as `cls`: a class of a notebook has no source"
    fields = list(signature(cls).parameters)
    for mod, names in import_module(f'{cfg.lib_name}._modidx').d['syms'].items():
        if f'{mod}.{cls.__qualname__}' not in names: continue
        twin = getattr(import_module(mod), cls.__qualname__)
        if list(signature(twin).parameters) == fields: return twin
    return cls

def fields_of(cls, plain):
    "The fields of a dataclass, each in the words of the class that has it"
    said = AttrDict({name: v for name, v in plain(cls, full=True).items() if name != 'return' and name[0] != '_'})
    for base in filter(is_dataclass, cls.__mro__):
        for name, v in plain(exported(base), full=True).items():
            if name in said: said[name].docment = said[name].docment or v.docment
    return said

def parameters_of(sym, plain=docments.docments, **kwargs):
    "What fastcore's `docments` says, with the words for `**kwargs`, of fields, and of a class without `__init__`"
    kwargs['args_kwargs'] = True
    # a function that remembers its results has no source of its own
    if not isclass(sym): return plain(sym if isfunction(sym) else unwrap(sym), **kwargs)
    maker = next(c for c in sym.__mro__ if '__init__' in vars(c))
    if '__dataclass_fields__' in vars(maker): return fields_of(sym, plain)
    if isfunction(sym.__init__): return plain(sym.__init__, **kwargs)
    if not isfunction(sym.__new__): return AttrDict()
    cls, *own = signature(sym.__new__).parameters
    try: said = plain(sym.__new__, **kwargs)
    # a named tuple has no source
    except OSError: return AttrDict({name: AttrDict(anno=Parameter.empty, default=Parameter.empty) for name in own})
    return AttrDict({name: v for name, v in said.items() if name != cls})

def shown_names(cell, shown, plain=processors._def_names):
    "The names of a cell that a page documents: no method that Python calls by itself, as `repr` does"
    return [name for name in plain(cell, shown) if not re.search(r'\._(?!_call__$)', name)]

def process():
    docments.docments, processors._def_names = parameters_of, shown_names
    proc_nbs(n_workers=0, force=True)

def processed():
    "The folder of the processed notebooks; made in a fork, which leaves without tidying up a shell for each of them"
    fork = get_context('fork').Process(target=process)
    fork.start(); fork.join()
    if fork.exitcode: sys.exit('the notebooks cannot be processed')
    return root/'_proc'

def docs():
    "Process `nbs/` as nbdev does, then render with smalldocs and write README.md"
    refresh_quarto_yml(); _build_modidx(); nbdev_sidebar.__wrapped__()
    proc = processed()
    (root/'README.md').write_text(readme(json.loads((proc/cfg.readme_nb).read_text())))
    for f in [*proc.rglob('*.ipynb'), proc/'sidebar.yml']: f.write_text(num.sub('', f.read_text()))
    files = {f.relative_to(proc): f.relative_to(proc) for f in proc.rglob('*.qmd')}
    for f in list(proc.rglob('*.ipynb')):
        new = f.with_name(num.sub('', f.name))
        files[new.relative_to(proc)] = f.relative_to(proc)
        f.rename(new)
    subprocess.run([sys.executable, '-m', 'smalldocs.cli', 'render', str(proc), '-q'], check=True)
    for new, file in files.items():
        page = (proc/cfg.doc_path.name/new).with_suffix('.html')
        page.write_text(to_source(for_both_themes(mended(page.read_text()), page), file.as_posix()))
    # the dark theme asks a server for its letters
    for css in (proc/cfg.doc_path.name).rglob('themes/*.css'):
        css.write_text(re.sub(r'@import (?:url\([^)]*\)|"[^"]*");', '', css.read_text()))
    shutil.rmtree(cfg.doc_path, ignore_errors=True)
    shutil.move(str(proc/cfg.doc_path.name), cfg.doc_path)

if __name__ == '__main__':
    if sys.argv[1:] == ['docs']: docs()
    elif sys.argv[1:2] == ['run']:
        files = [Path(a).absolute() for a in sys.argv[2:]] or all_nbs()
        if len(files) == 1: run(files[0])
        else:                            # each in a process of its own
            for f in files:
                print(f.name, flush=True)
                subprocess.run([sys.executable, __file__, 'run', str(f)], check=True)
        nbdev_clean.__wrapped__()
    else: sys.exit('usage: python tools/nbs.py docs | run [NOTEBOOK ...]')
