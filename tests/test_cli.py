"The commands as a newcomer types them: help, examples, wishes"
import shlex
from pathlib import Path
import pytest
from cf_guidance import cli
from cf_guidance.cli.help_pages import help_page
from cf_guidance.pieces.core import MODELS

COMMANDS = {'cfg_sweep': cli.main, 'cfg_eval': cli.main_eval, 'cfg_explore': cli.main_explore}
EXAMPLES = [line for name in COMMANDS for line in getattr(cli, name).examples]

@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    "Type a line in an empty folder: what it prints, what it warns of, and what it says when it gives up"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    def type_line(line):
        words = shlex.split(line)
        monkeypatch.setattr('sys.argv', words)
        try: COMMANDS[words[0]]()
        except SystemExit as e: said = e.code
        else: said = None
        out, err = capsys.readouterr()
        return out, err, said
    return type_line

@pytest.fixture
def folders(tmp_path, typed):
    "What the examples speak of: a model, two folders of images, and a function"
    (tmp_path/'path/to').mkdir(parents=True)
    (tmp_path/'path/to/model').symlink_to(MODELS/'scenes')
    (tmp_path/'my.py').write_text('def reward(images, prompts): return images.mean((1, 2, 3))')
    for line in ('cfg_sweep --schedule 1,7.5', 'cfg_sweep --transform cfg,apg --schedule 7.5 --out methods'):
        assert typed(f'{line} --steps 2 --no-grid')[2] is None

@pytest.mark.parametrize('line', EXAMPLES)
def test_examples_of_the_help(line, folders, typed, monkeypatch):
    "They run; a sweep as --dry-run, and the explorer without its server"
    served = []
    monkeypatch.setattr('cf_guidance.cli.explore_command._serve', lambda *args: served.append(args))
    out, err, said = typed(line + ' --dry-run'*line.startswith('cfg_sweep'))
    assert said is None and (out or served), (said, err)

@pytest.mark.parametrize('name', COMMANDS)
def test_help_fits_a_terminal(name):
    page = help_page(getattr(cli, name))
    assert max(map(len, page.splitlines())) < 80
    assert len(getattr(cli, name).examples) == 5 and all(line in page for line in getattr(cli, name).examples)
    assert all(f'\n{heading}:\n' in page for heading in getattr(cli, name).groups)
