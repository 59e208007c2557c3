"The commands as a newcomer types them: help, examples, wishes"
import json, os, re, shlex, subprocess, sys, warnings
import pytest
from cf_guidance import cli
from cf_guidance.cli.help_pages import help_page
from cf_guidance.pieces.core import MODELS

COMMANDS = {'cfg_sweep': cli.main, 'cfg_eval': cli.main_eval, 'cfg_explore': cli.main_explore,
            'cfg_race': cli.main_race, 'cfg_search': cli.main_search}
EXAMPLES = [line for name in COMMANDS for line in getattr(cli, name).examples]

@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    "Type a line in an empty folder: what it prints, what it warns of, and what it says when it gives up"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    def type_line(line):
        words = shlex.split(line)
        monkeypatch.setattr('sys.argv', words)
        said = None
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', DeprecationWarning)            # as outside of pytest
            try: COMMANDS[words[0]]()
            except SystemExit as e: said = e.code
        out, err = capsys.readouterr()
        return out, err, said
    return type_line

@pytest.fixture
def folders(tmp_path, typed):
    "What the examples speak of: a model, two folders of images, and a function"
    (tmp_path/'path/to').mkdir(parents=True)
    (tmp_path/'path/to/model').symlink_to(MODELS/'scenes')
    for name, text in (('a', 'a red cube'), ('b', 'a blue cone')): (tmp_path/f'{name}.txt').write_text(text)
    (tmp_path/'my.py').write_text('def reward(images, prompts): return images.mean((1, 2, 3))')
    for line in ('cfg_sweep --schedule 1,7.5', 'cfg_sweep --transform cfg,apg --schedule 7.5 --out methods'):
        assert typed(f'{line} --steps 2 --no-grid')[2] is None

@pytest.mark.parametrize('line', EXAMPLES)
def test_examples_of_the_help(line, folders, typed, monkeypatch):
    "They run; a sweep, a race and a search as --dry-run, and the explorer without its server"
    served = []
    monkeypatch.setattr('cf_guidance.cli.explore_command._serve', lambda *args: served.append(args))
    dry = line.startswith(('cfg_sweep', 'cfg_race', 'cfg_search')) and 'dry-run' not in line
    out, err, said = typed(line + ' --dry-run'*dry)
    assert said is None and (out or served), (said, err)

@pytest.mark.parametrize('name', COMMANDS)
def test_help_fits_a_terminal(name):
    page = help_page(getattr(cli, name))
    assert max(map(len, page.splitlines())) < 80
    assert len(getattr(cli, name).examples) in (5, 6) and all(line in page for line in getattr(cli, name).examples)
    assert all(f'\n{heading}:\n' in page for heading in getattr(cli, name).groups)

# expressions with one mistake, and what names it
MISTAKES = {
    'cosin(9)': '`cosin` at character 1 (nearest: cosine)',
    'cosine(9,3).cutof(.4)': '`cutof` at character 13 (nearest: cutoff)',
    'constant(7.5).then(cosin(3), at=.5)': '`cosin` at character 20 (nearest: cosine)',
    'constant(7.5).then(linear(1 7))': 'cannot be read at character 27',
    'constant(7.5).then(1, att=.4)': '`then` has no parameter `att` at character 23 (nearest: at)',
    'constant(7.5).then(1, at=2)': '`at` of `then` must be a position, 0 to 1; got 2',
    'constant(7.5).cutoff': 'the operator `cutoff` without brackets at character 15',
    'constant(x=3)': '`constant` has no parameter `x` at character 10 (it has val)',
    'constant(abc)': '`abc` at character 10', 'constant()': '`constant` needs a value of `val`',
    'constant(7.5)).cutoff(.4)': 'the bracket `)` at character 14 closes none',
    'cosine(9, 3': 'the bracket `(` at character 7 is not closed', 'linear(1,7)+': 'it ends with `+`',
    'linear(1,7) - 2': 'schedules take + and * alone', 'linear(start=1, start=2)': 'it gives `start` twice',
    'linear(1,7).clip(1)': '`clip` needs a value of `hi`', 'cosine(k_decay=0)': '`k_decay` of `cosine` must be above 0',
    'cosine(9).warmup(1.5)': '`steps` of `warmup` must be a whole number', 'constant[7.5]': 'round brackets',
    '7.5*poss': '`poss` at character 5 (nearest: pos)', '7.5*cos(pos': 'the bracket `(` at character 8 is not closed',
    'pos^2': 'a power is `**`',
}

@pytest.mark.parametrize('text', MISTAKES)
def test_a_mistake_in_a_schedule(text, typed):
    _, _, said = typed(f'cfg_sweep --dry-run --schedule {shlex.quote(text)}')
    assert said.startswith('cfg_sweep: `schedule` must be') and MISTAKES[text] in said and '\n' not in said

OF_TRANSFORMS = {
    'rescal(phi=.5)': 'nearest: rescale', 'rescale(ph=.5)': 'nearest: phi',
    'rescale(.5)': 'must name each of its parameters',
    'rescale(phi=cosin(0,1))': '`phi` must be arithmetic, but has the unknown function `cosin`',
    'rescale(phi=.5': 'the bracket `(` at character 8 is not closed', 'apg(form=papr)': 'nearest: paper',
    'rescale(phi=.5, phi=.6)': 'must give `phi` once',
}

@pytest.mark.parametrize('text', OF_TRANSFORMS)
def test_a_mistake_in_a_transform(text, typed):
    _, _, said = typed(f'cfg_sweep --dry-run --schedule 5 --transform {shlex.quote(text)}')
    assert said.startswith('cfg_sweep: ') and OF_TRANSFORMS[text] in said and '\n' not in said

def remarks(err): return [line for line in err.splitlines() if line.startswith('cfg_sweep: ')]

@pytest.mark.parametrize('asked, words', [
    ("--prompt 'an astronaut riding a horse'", 'riding (nearest: ring), horse (nearest: torus)'),
    ('--size 128', 'was trained at 64 x 64 pixels'),
    ("--prompt 'a purpel cone' --size 96", 'purpel (nearest: purple)')])
def test_a_dry_run_remarks_what_the_run_does(asked, words, typed):
    "On words that the model does not know, and on a size that it was not trained for"
    line = f'cfg_sweep {asked} --schedule 3 --steps 1 --no-grid'
    before, after = remarks(typed(f'{line} --dry-run')[1]), remarks(typed(line)[1])
    assert sorted(before) == sorted(after) and any(words in said for said in before)

@pytest.mark.parametrize('device', ['gpu', 'cuda:9', 'mps'])
@pytest.mark.parametrize('more', ['', '--engine hosted', '--dry-run'])
def test_a_device_that_is_not_here(device, more, typed, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setattr('torch.backends.mps.is_available', lambda: False)
    said = typed(f'cfg_sweep --device {device} --schedule 3 --steps 1 {more}')[2]
    assert said == f"cfg_sweep: `device` must be one of ['cpu'] here; got {device!r} (nearest: cpu)"

# what a newcomer types, and a word of the one line that answers; None: it is done
WISHES = {
    "cfg_sweep --model ./sdxl --schedule 5": 'there is no such folder, and names on the hub are like owner/name',
    'cfg_sweep --guidance_scale 1,3,5': None, "cfg_sweep --guidance_scale '[1, 3, 5]'": 'no brackets around them',
    'cfg_sweep --guidance_scale 1 3 5': 'several values have commas between them',
    "cfg_sweep --schedule 5 --sampler 'euler a'": None, "cfg_sweep --schedule 5 --sampler 'DPM++ 2M Karras'": None,
    'cfg_sweep --schedule 5 --sampler euler_b': 'nearest: euler_a', 'cfg_sweep --schedule 5 --sampler ddim,euler': None,
    'cfg_sweep --schedule 5 --negative_prompt blue': None, 'cfg_sweep --schedule off': 'no guidance is 1',
    'cfg_sweep --schedule 5 --width 512': 'instead: --size 512x768',
    'cfg_sweep --schedule 5 --size 100': 'must be a multiple of 16 for this model; got 100 (nearest: 96)',
    'cfg_sweep --schedule 5 --seeds 1-3': None, 'cfg_sweep --schedule 5 -n 4': 'perhaps --negative-prompt',
    'cfg_sweep --schedule 5 --num_images 4': '--seed 1-4 makes four images',
    'cfg_sweep --schedule 5 --output mine': None, 'cfg_sweep --schedule 5 -o mine': 'perhaps --out',
    'cfg_sweep --schedule 5 --fp16': 'instead: --dtype float16',
    'cfg_sweep --schedule 5 --cpu': 'instead: --device cpu',
    'cfg_sweep --schedule 5 --dtype float61': 'nearest: float16', 'cfg_sweep --schedule 5 --dtype bf16': None,
    'cfg_sweep --schedule 5 --resume': 'the same command goes on where it stopped',
    'cfg_sweep --schedule 5 --overwrite': 'another --out begins anew',
    'cfg_sweep a red cone': "perhaps --prompt 'a red cone'", 'cfg_sweep help': 'perhaps --help',
    'cfg_sweep --schedule 5 --method cfg,apg': None, 'cfg_sweep --schedule 5 --eta .5': "--call 'NAME=VALUE'",
    'cfg_sweep --schedule 5 --lora my.safetensors': '`engine` is "hosted"',
    'cfg_eval methods --metric verifier': None, 'cfg_eval methods --score verifyer': 'nearest: verifier',
    'cfg_eval nowhere': '`folder` must be that of a sweep', 'cfg_eval methods --axis transform': None,
    'cfg_sweep --preset sdx': 'nearest: sdxl', 'cfg_sweep --preset scenes --steps 2': None,
    'cfg_sweep --preset sd35-turbo': None, 'cfg_sweep --gallery --transform apg': '`transform` cannot be given with',
    'cfg_sweep --gallery --how pairs': "`how` must be one of ['grid']",
    'cfg_explore --steps 500': '`steps` must be a whole number, 1 to 200',
}

@pytest.mark.parametrize('line', WISHES)
def test_wishes_of_a_newcomer(line, folders, typed, monkeypatch):
    monkeypatch.setattr('cf_guidance.pieces.devices.best_device', lambda: 'cpu')
    out, err, said = typed(line + ' --steps 2 --no-grid'*line.startswith('cfg_sweep'))
    if WISHES[line] is None: assert said is None and out, said
    else: assert WISHES[line] in said and '\n' not in said and 'Traceback' not in err, said

LOADED = '''
import atexit, collections, json, sys
def told(): print('LOADED', json.dumps(sorted(sys.modules)))
atexit.register(told)
if sys.argv[1:2] == ['import']: __import__(sys.argv[2])
else:
    from cf_guidance.cli import main
    main()
'''

def loaded(*words, cwd):
    "The modules that a process of its own has at its end"
    done = subprocess.run([sys.executable, '-c', LOADED, *words], capture_output=True, text=True, cwd=cwd,
                          env={**os.environ, 'HF_HUB_OFFLINE': '1'})
    said, _, mods = done.stdout.rpartition('LOADED ')
    return said + done.stderr, json.loads(mods)

def of(mods, *packages): return [m for m in mods if m.split('.')[0] in packages]

def rooms(mods): return {m.split('.')[1] for m in mods if m.startswith('cf_guidance.')}

def bought(mods):
    "The installed packages among some modules, but for those that every Python here begins with"
    begins = {m.split('.')[0] for m in loaded('import', 'json', cwd='.')[1]}
    return {m.split('.')[0] for m in mods} - begins - {*sys.stdlib_module_names, 'cf_guidance', '__mp_main__'}

# a word of each answer that needs no room but those of the command line and of the schedules
LIGHT = {
    ('--help',): 'Examples:', ('--list',): 'rescale(', ('--version',): 'cfg_sweep ',
    ('--schedule', 'cosin'): 'nearest: cosine', ('--schedule', 'cosine(9).cutof(.4)'): 'nearest: cutoff',
    ('--transform', 'rescalee'): 'nearest: rescale', ('--transform', 'cgf'): 'nearest: cfg',
    ('--transform', 'rescale(phi=cosin(0, 1))'): 'unknown function `cosin`',
    ('--transform', 'apg(form=papr'): 'is not closed', ('--seed', 'ten'): '`seed`: values must be numbers',
    ('--steps', '0'): '`steps` must be a whole number', ('--dtype', 'float61'): 'nearest: float16',
    ('--how', 'pair'): 'nearest: pairs', ('--sweep', 'k_decay'): 'parameters must be like',
    ('--promt', 'x'): 'nearest: --prompt',
}

@pytest.mark.parametrize('words', LIGHT, ids=' '.join)
def test_a_quick_answer_loads_nothing_heavy(words, tmp_path):
    "No installed package, but for fastcore, which parses the words; no room that answers nothing"
    said, mods = loaded(*words, cwd=tmp_path)
    assert LIGHT[words] in said, said[-500:]
    assert bought(mods) <= {'fastcore'} and rooms(mods) <= {'checks', 'cli', 'rooms', 'schedules'}

def test_the_transforms_load_torch_alone(tmp_path):
    _, mods = loaded('import', 'cf_guidance.transforms', cwd=tmp_path)
    assert 'torch' in mods and of(mods, 'diffusers', 'transformers', 'matplotlib', 'scipy', 'PIL') == []

@pytest.mark.heavy
def test_what_a_sweep_loads(tmp_path):
    "Neither a dry run nor a finished rerun draws a thing, or has more of diffusers than the networks that it uses"
    line = '--schedule', '3', '--steps', '1', '--out', 'here'
    for more in ('--no-grid', '--dry-run', '--no-grid'):
        said, mods = loaded(*line, more, cwd=tmp_path)
        assert 'here' in said or 'there already' in said, said
        assert of(mods, 'matplotlib', 'pandas', 'IPython', 'ray', 'ipywidgets') == []
        assert not rooms(mods) & {'evaluation', 'plots', 'widgets', 'worlds'}
        # of diffusers' many networks those that a U-Net and a VAE are made of
        nets = [m for m in of(mods, 'diffusers') if m.startswith(('diffusers.pipelines.', 'diffusers.models.'))]
        many = r'pipelines|autoencoders[.]auto|unets[.]unet|transformers[.]|controlnets[.]'
        kinds = {m for m in nets if re.search(many, m)}
        own = 'autoencoders.autoencoder_kl', 'unets.unet_2d_blocks', 'unets.unet_2d_condition'
        own += 'transformers.dual_transformer_2d', 'transformers.transformer_2d'
        assert kinds <= {f'diffusers.models.{k}' for k in own}, kinds

@pytest.mark.parametrize('unbuffered', ['', '1'])
@pytest.mark.parametrize('option', ['--help', '--list', pytest.param('--dry-run', marks=pytest.mark.heavy)])
def test_reader_that_leaves(option, unbuffered, tmp_path):
    "A pipe that is closed, as by `| head -1`, ends a command without a word"
    code = f'import sys; sys.argv = ["cfg_sweep", "{option}"]; from cf_guidance.cli import main; main()'
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], stdout=write, stderr=subprocess.PIPE,
                         cwd=tmp_path, env={**os.environ, 'PYTHONUNBUFFERED': unbuffered})
    os.close(write)
    assert (run.returncode, run.stderr) == (141, b'')
