"What the page without a kernel shows, in a browser, is what the library says"
import inspect, linecache, math, random, re
from contextlib import contextmanager
import pytest
from cf_guidance import schedules
from cf_guidance.schedules import CURVES
from cf_guidance.widgets import explorer_page, page_table
from cf_guidance.schedules import NOMINAL_SIGMAS, cosine, preview_values, from_json, lift, from_list

BOOT = '<style>code{color:#d63384;font-size:.8em}label{display:inline-block;margin-bottom:.5rem}legend{float:left;width:100%;font-size:2em}' \
    'input,select{width:100%}svg{vertical-align:middle}*{box-sizing:border-box}</style>'

@contextmanager
def opener(browser, folder):
    "Opens pages; at the end no error was logged and nothing was asked of a network"
    opened, faults = [], []
    def show(html, width=1000):
        file = folder/f'{len(opened)}.html'
        file.write_text(html)
        page = browser.new_page(viewport={'width': width, 'height': 900})
        opened.append(page)
        page.on('console', lambda m: faults.append(m.text))
        page.on('pageerror', lambda e: faults.append(str(e)))
        page.on('request', lambda r: None if r.url == file.as_uri() else faults.append(r.url))
        page.goto(file.as_uri())
        return page
    yield show
    for page in opened: page.close()
    assert faults == []

@pytest.fixture
def show(browser, tmp_path):
    with opener(browser, tmp_path) as show: yield show

@pytest.fixture(scope='module')
def whole(browser, tmp_path_factory):
    "The page with all curves, for tests that leave nothing behind"
    with opener(browser, tmp_path_factory.mktemp('page')) as show: yield show(explorer_page(standalone=True))

def nominal(n): return [NOMINAL_SIGMAS[0]*(NOMINAL_SIGMAS[1]/NOMINAL_SIGMAS[0])**(i/max(1, n - 1)) for i in range(n)]

def clock(n): return [999*(1 - i/max(1, n - 1)) for i in range(n)]
def evaluated(line): return eval(line, {**CURVES, 'lift': lift})

TABLE = page_table()
INNER = [k for k in TABLE['curves'] if k != 'from_list']

def number(p, rng):
    "A number for the slider of `p`: mostly inside, at times an end of it or outside"
    lo, hi = p['lo'], p['hi']
    return rng.choice([rng.uniform(lo, hi)]*6 +
                      [lo, hi, p['start'], round(rng.uniform(lo, hi)), -rng.uniform(lo, hi), hi + 1])

def some(start, rng):
    "Numbers for a list that begins as `start`: mostly as many, and rising, or positions if these are some"
    k, top = rng.choice([len(start)]*8 + [1, 3]), 1 if max(start) <= 1 else 15
    vals = sorted(rng.uniform(0, top) for _ in range(k))
    return rng.choice([vals]*8 + [start, [0]*k, vals[::-1], [-1, *vals[1:]]])

def plain(name, rng, n, deep=2):
    "A random schedule of the curve `name` as plain data, not always one that the library takes"
    d = {'curve': name}
    for p in TABLE['curves'][name]['params']:
        if p['kind'] == 'schedule':
            val = plain(rng.choice(INNER if deep else ['cosine', 'linear', 'constant', 'restarts']), rng, n, deep - 1)
        elif p['kind'] == 'int': val = rng.choice([rng.randint(0, n), rng.randint(0, n + 1), 0, 1, -1, 1.5])
        elif p['kind'] != 'list': val = number(p, rng)
        elif 'start' in p: val = some(p['start'], rng)
        else: val = [rng.uniform(-1, 15) for _ in range(rng.choice([n]*8 + [n + 1, max(0, n - 1)]))]
        d[p['name']] = val
    return d

def python(d):
    "The schedule of plain data"
    args = [
        python(v) if isinstance(v, dict) else tuple(v) if isinstance(v, list) else v
        for k, v in d.items()
        if k != 'curve'
    ]
    return CURVES[d['curve']](*args)      # which names the parameters that the page shows

def asked(d, n, sigmas, times=None):
    try:
        s = python(d)
        return [repr(s), s.values(n, sigmas, times)]
    except (ValueError, ArithmeticError, TypeError, LookupError) as e: return e

ASK = '''cases => { const x = document.querySelector('.cfg-page').explorer
    return cases.map(([d, ...run]) => { try { const s = x.read(d); return [s.line, s.at(...run)] } catch (e) { return e.message } }) }'''

def bare(words): return re.sub(r'(\d)\.0\b', r'\1', re.sub(r'\[(.*?)\]', r'(\1)', words))

def cases_of(name, k):
    "For each number of steps `k` random cases that the library takes, and those that it refuses on the way, with its answers"
    rng, res = random.Random(f'page {name}'), []
    for n in (1, 2, 7, 50):
        good = 0
        while good < k:
            case = plain(name, rng, n), n, rng.choice([nominal(n)]*7 + [None]), rng.choice([clock(n)]*7 + [None])
            res.append((case, want := asked(*case)))
            good += isinstance(want, list)
    return res

@pytest.mark.parametrize('name', list(TABLE['curves']))
def test_same_figures(whole, every, name):
    cases = cases_of(name, 30 if every else 4)
    for ((d, n, *_), want), got in zip(cases, whole.evaluate(ASK, [c for c, _ in cases]), strict=True):
        if isinstance(want, list):
            assert isinstance(got, list), (d, n, want, got)
            assert got[0] == want[0] and evaluated(got[0]) == python(d)
            assert all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
                       for a, b in zip(got[1], want[1], strict=True)), (d, n, got, want)
        else:
            assert isinstance(got, str), (d, n, want, got)
            if isinstance(want, ValueError) and 'math domain' not in str(want):
                assert bare(got) == bare(str(want)), (d, n)

def test_operators_of_python(show, every):
    "`%`, `//`, `**`, chains and truth of a translated curve mean what they mean in Python, or throw where it throws"
    made = {}
    try:
        for f in (odd_ops, odd_tests, odd_maths): made[f.__name__] = schedules.curve(f)
        page, nums = show(explorer_page(['cosine', *made], standalone=True)), [-7.5, -2, -1, -.5, 0, .5, 1, 3, 7]
        cases = [({'curve': name, 'p': p, 'q': q}, 3, nominal(3)) for name in made for p in nums for q in nums]
        for (d, n, sig), got in zip(cases, page.evaluate(ASK, cases)):
            want = asked(d, n, sig)
            if isinstance(want, Exception): assert isinstance(got, str), (d, want, got)
            else: assert isinstance(got, list) and got[1] == pytest.approx(want[1], rel=1e-12), (d, want, got)
    finally:
        for name in made: del CURVES[name]

def odd_ops(at,
    p:float=1., # A number, -10 to 10
    q:float=1., # A number, -10 to 10
)->float:
    "Every operator"
    return (p % q) + (p // q)*10 - p**2*(-q)**3 + p**q/7 + at*2 - (at + 1)**-1 - (p - (q - 2*(p + 1)))

def odd_tests(at,
    p:float=1., # A number, -10 to 10
    q:float=1., # A number, -10 to 10
)->float:
    "Every test"
    first, rest = at.sigmas[0], at.sigmas[1:]
    if not at or p == q != 3: return first + len(rest) + (p and q) + (q or 5)
    elif -2 < p <= q < 7 and not (p >= 1 or q > 3): first, p = p, first
    else: p -= q if rest[:0] else 2*q
    return min(p, q, at.n) + max(rest) + abs(first) + (p > q) + int(p) + sum(at.sigmas[-2:]) + at.sigmas[-1]

def odd_maths(at,
    p:float=1., # A number, -10 to 10
    q:float=1., # A number, -10 to 10
)->float:
    "Some of `math`"
    if p > 6: return at.sigmas[at + 2]
    return math.sqrt(p + 2) + math.log(q + 3, 2) + math.floor(p) + math.atan2(
        p, q) + math.fabs(q) + math.hypot(p, q)*math.exp(-p) + math.pi + min(9, p/q) + math.atan2(p % q, -1)

LOW = -2.
def delete(x):
    if x > 5: raise ValueError(f'no </script><b>{x}')

def test_any_name_and_any_words(show):
    "Curves may be called as the page's own pieces are, a check `delete`; a global below zero, and words that would close the script"
    def named(name):
        env = {'LOW': LOW}
        src = f'def {name}(at,\n    x:float=1., # A number\n)->float:\n    "Lower </script> `x`"\n    return x - -LOW\n'
        exec(compile(src, f'<{name}>', 'exec'), env)
        linecache.cache[f'<{name}>'] = len(src), None, src.splitlines(True), f'<{name}>'
        return schedules.curve(env[name])

    names = '''make fail number marked slider list checked field chooser ticks short plot start root
        Array Object String Number document debugger'''.split()
    try:
        for name in names: named(name).check = delete
        page = show(explorer_page(names, standalone=True))
        for name in names:
            page.locator('select').first.select_option(name)
            for box, line in (('3', f'{name}(x=3)'), ('-0.5', f'{name}(x=-0.5)')):
                page.fill('input[aria-label^="x,"]', box)
                now = page.evaluate("document.querySelector('.cfg-page').explorer.now")
                assert now['line'] == line and now['values'] == pytest.approx([float(box) - 2]*50), name
            page.fill('input[aria-label^="x,"]', '6'); assert 'no </script><b>6' in page.inner_text('[role=alert]')
            page.fill('input[aria-label^="x,"]', '0x10')
            assert "x must be a finite number; got '0x10'" in page.inner_text('[role=alert]')
    finally:
        for name in names: CURVES.pop(name, None)

def test_sign_of_zero(whole):
    got = whole.evaluate(ASK, [({'curve': 'from_list', 'vals': [-0., 0., 1e15]}, 3, None)])[0]
    assert got[0] == repr(from_list([-0., 0., 1e15])) and evaluated(got[0]) == from_list([-0., 0., 1e15])

def test_slider_moves_the_curve(show):
    page = show(explorer_page(standalone=True))
    svg, range_ = page.locator('.cfg-page svg[role=img]'), page.locator('label:has-text("max_val") input[type=range]')
    before, line, box = svg.screenshot(), page.inner_text('.line code'), range_.bounding_box()
    assert line == 'cosine()'
    page.mouse.move(box['x'] + box['width']/2, box['y'] + box['height']/2); page.mouse.down()
    page.mouse.move(box['x'] + .8*box['width'], box['y'] + box['height']/2, steps=4); page.mouse.up()
    assert svg.screenshot() != before and 'max_val=1' in page.inner_text('.line code')
    page.keyboard.press('ArrowRight')
    now, line = page.evaluate("document.querySelector('.cfg-page').explorer.now"), page.inner_text('.line code')
    sched = evaluated(line)
    assert now['line'] == line and now['values'] == pytest.approx(sched.values(50, nominal(50)), rel=1e-9)
    assert f"Mean of g {sum(now['values'])/50:.4g}" in page.inner_text('[aria-live]')

def test_every_curve_from_the_menu(whole, every):
    "Each curve, and each inside `warmup`, begins with numbers that are drawn"
    page, menu = whole, 'fieldset > label.menu select'
    for name in TABLE['curves']:
        page.locator(menu).first.select_option(name)
        assert page.inner_text('[role=alert]') == '', name
        now = page.evaluate("document.querySelector('.cfg-page').explorer.now")
        assert preview_values(evaluated(now['line'])) == pytest.approx(now['values'], rel=1e-9)
    page.locator(menu).first.select_option('warmup')
    for name in INNER if every else ['then', 'within', 'piecewise', 'within_timesteps']:
        page.locator(menu).nth(1).select_option(name)
        assert page.inner_text('[role=alert]') == '' and '.warmup(5)' in page.inner_text('.line code'), name

def test_passes_are_counted(show):
    page = show(explorer_page(['constant', 'within'], standalone=True))
    for val, passes in (('7.5', 100), ('1', 50), ('0', 50)):
        page.fill('input[aria-label^="val"]', val)
        assert f'{passes} network calls in 50 steps' in page.inner_text('[aria-live]')
    page.locator('select').first.select_option('within')
    vals = schedules.constant(7.5).within((.28, 5.42)).values(50, nominal(50))
    assert f'{50 + sum(v != 1 for v in vals)} network calls' in page.inner_text('[aria-live]')

@pytest.mark.parametrize('name,field,bad,words', [
    ('cosine', 'input[aria-label^="k_decay"]', '0', 'k_decay must be above 0; got 0'),
    ('cosine', 'input[aria-label^="max_val"]', '<img src=x onerror=alert(1)>', "max_val must be a finite number; got "
                                                                               "'<img src=x onerror=alert(1)>'"),
    ('clip', 'input[aria-label^="lo"]', '9', 'lo must be at most hi; got 9 and 6'),
    ('warmup', 'input[aria-label^="steps"]', '51', 'steps of warm-up must be at most the number of steps, 50; got 51'),
    ('within', 'label:has-text("sigma") input', '5, 1', 'with 0 <= lo < hi; got (5, 1)'),
    ('from_list', 'textarea', '7, 5', 'the list has 2, the run has 50 steps'),
    ('linear', 'input[aria-label^="number of steps"]', '2.5', 'number of steps must be a whole number, 1 to 200; got '
                                                              '2.5'),
])
def test_refused_in_words(whole, name, field, bad, words):
    page = whole
    page.locator('select').first.select_option(name)
    line, said = page.inner_text('.line code'), page.locator(field).first.input_value()
    page.locator(field).first.fill(bad)
    assert words in page.inner_text('[role=alert]') and page.locator('.old svg path.curve').count() == 1
    assert page.inner_text('.line code') == line and page.locator('img').count() == 0
    page.locator(field).first.fill(said)
    assert page.inner_text('[role=alert]') == '' and page.locator('.old').count() == 0

@pytest.mark.parametrize('width', (360, 1200))
def test_fits_and_is_labelled(show, width):
    "On a page with a style of its own, two explorers stand without a scroll bar and with a name on each control"
    page = show(
        '<!doctype html><meta name="viewport" content="width=device-width">' + BOOT + explorer_page() +
        explorer_page(['linear'], 9), width)
    assert page.locator('.cfg-page svg[role=img]').count() == 2
    for name in ('restarts', 'then', 'from_list'):
        page.locator('select').first.select_option(name)
        assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
        assert page.evaluate('''[...document.querySelectorAll('.cfg-page :is(input, select, textarea)')]
            .filter(e => !e.ariaLabel && !e.labels.length).length''') == 0
        assert page.locator('.cfg-page svg[role=img]').first.get_attribute('aria-label').startswith('Plot of ')
    assert page.locator('.cfg-page svg[role=img]').nth(1).get_attribute('aria-label').startswith('Plot of linear()')

def test_keyboard_and_copy(show):
    page = show(explorer_page(standalone=True))
    page.locator('select').first.focus()
    page.keyboard.type('lin')
    page.keyboard.press('Tab')
    page.keyboard.press('ArrowLeft')
    assert page.inner_text('.line code') == 'linear(start=7.45)'
    page.click('button')
    page.wait_for_function("document.querySelector('[role=status]').textContent === 'Copied'")

def test_same_text_each_time():
    assert explorer_page() == explorer_page() and len(explorer_page(standalone=True)) < 80_000
    assert from_list in CURVES.values() and from_json(
        cosine().to_json()) == cosine() and inspect.signature(explorer_page).parameters['steps'].default == 50
