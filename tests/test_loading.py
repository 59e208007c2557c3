"What is said while a model is loaded: how much is fetched, what broke off, what does not fit"
from types import SimpleNamespace
import pytest, torch
from diffusers import DiffusionPipeline
from cf_guidance.adapters import as_pipeline, layout_of, load_pipeline, loading
from cf_guidance.pieces import get_sd_pieces
from cf_guidance.sweeps import Sweep

NAME = 'someone/a-model'

@pytest.fixture
def hub(tmp_path, monkeypatch):
    "A stand-in for the hub: its answers, and the folder that is fetched from it"
    home, own = tmp_path/'model', DiffusionPipeline.from_pretrained
    as_pipeline(get_sd_pieces('shapes-weak', device='cpu')).save_pretrained(home)
    files = [SimpleNamespace(rfilename=p.relative_to(home).as_posix(), size=p.stat().st_size)
             for p in home.rglob('*') if p.is_file()]
    def fetch(name, **how): return own(str(home), **{**how, 'local_files_only': True})
    said = SimpleNamespace(home=home, asked=[], fetch=fetch)
    def info(name, files_metadata): said.asked.append(name); return SimpleNamespace(siblings=files)
    monkeypatch.setattr('huggingface_hub.model_info', info)
    monkeypatch.setattr('huggingface_hub.hf_hub_download', lambda name, file: str(home/file))
    monkeypatch.setattr(loading, 'reachable', lambda name: name)
    monkeypatch.setattr(DiffusionPipeline, 'from_pretrained', lambda name, **how: said.fetch(name, **how))
    said.bytes = sum(f.size for f in files)
    return said

def test_said_before(hub, capsys):
    "How many files, and how big, before the first comes"
    fetch, seen = hub.fetch, []
    def watched(name, **how):
        seen.append(capsys.readouterr().err)
        return fetch(name, **how)
    hub.fetch = watched
    pipe = load_pipeline(NAME, device='cpu')
    assert type(pipe).__name__ == layout_of(NAME) == 'StableDiffusionPipeline' and hub.asked == [NAME]
    assert 'Fetching ' in seen[0] and f'files of {NAME}, {hub.bytes/1e6:.1f} MB' in seen[0]

def test_nothing_is_asked(hub):
    "A folder asks nobody"
    load_pipeline(str(hub.home), device='cpu')
    assert hub.asked == []

@pytest.mark.parametrize('error', [ConnectionError('no way\nthere'), TimeoutError('late'), RuntimeError('odd')])
def test_broken_off(hub, error):
    "A fetch that fails is one line, which says that it goes on"
    def fails(name, **how): raise error
    hub.fetch = fails
    with pytest.raises(ValueError) as e: load_pipeline(NAME, device='cpu')
    assert '`model` must be' in str(e.value) and 'goes on from there' in str(e.value) and '\n' not in str(e.value)

def test_interrupted(hub):
    "Ctrl-C says which model was not loaded"
    def stops(name, **how): raise KeyboardInterrupt
    hub.fetch = stops
    with pytest.raises(KeyboardInterrupt, match=f"`model` '{NAME}' was not loaded"): load_pipeline(NAME, device='cpu')

def test_offline(monkeypatch):
    "Without a connection the model is named, in one line"
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    for load in (layout_of, load_pipeline):
        with pytest.raises(ValueError) as e: load(NAME)
        assert '`model` must be a folder or a reachable hub model' in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('error', [MemoryError(), torch.OutOfMemoryError('CUDA out of memory. Tried'),
                                   RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")])
def test_too_big(hub, error, monkeypatch):
    "What does not fit says what to try, while it is loaded and while it runs"
    def full(*args, **how): raise error
    home, fetch = str(hub.home), hub.fetch
    hub.fetch = full
    with pytest.raises(ValueError, match='`model` must fit into memory.*offload="model".*dtype="float16"'):
        load_pipeline(home, device='cpu')
    hub.fetch = fetch
    pipe = load_pipeline(home, device='cpu')
    sweep, own, calls = Sweep(pipe, prompt='a red star', schedule=[3., 4.], steps=2), pipe.vae.decode, []
    def once(*args, **how):
        calls.append(1)
        if len(calls) == 1: raise error
        return own(*args, **how)
    pipe.vae.decode = once
    sweep.run(progress=False)
    lost = [c.failed for c in sweep.cells if c.failed]
    assert len(lost) == 1 and 'ran out of memory: try offload=' in str(lost[0]) and 'smaller size' in str(lost[0])

def test_offload_that_cannot_be(hub, monkeypatch):
    "Offloading wants accelerate and a device; where it cannot be, that is one line"
    def lacks(*args, **how): raise ImportError('accelerate is not there\nat all')
    monkeypatch.setattr(DiffusionPipeline, 'enable_model_cpu_offload', lacks)
    with pytest.raises(ValueError, match='`offload` must be "none" on this machine'):
        load_pipeline(str(hub.home), device='cpu', offload='model')
