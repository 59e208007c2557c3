"The pack in ComfyUI's own server: a workflow that is posted, its image, and the curve on the node"
import io, json
from pathlib import Path
import pytest
from PIL import Image
from host import Graph, out
from ours import Ours
from safetensors.torch import save_file

def workflow(server, text='linear(6, 1)'):
    own = Ours('v')
    file = str(server.work/'conditions.safetensors')
    save_file(dict(pos=own.pos.contiguous(), neg=own.neg.contiguous(), empty=own.noise*0), file)
    g = Graph()
    tensor = lambda name, n: out(g.add('TestTensor', file=file, name=name, more='{}'), n)
    sched = g.add('CFGuidanceSchedule', curve='expression', **{'curve.text': text})
    model = out(g.add('TestModel', kind='v', folder='shapes'))
    apply = g.add('CFGuidanceApply', model=model, guidance=out(sched), record=True)
    latent = g.add('KSampler', model=out(apply), positive=tensor('pos', 0), negative=tensor('neg', 0), seed=1, steps=6,
                   cfg=1., latent_image=tensor('empty', 1), sampler_name='euler', scheduler='normal', denoise=1.)
    record = g.add('CFGuidanceRecord', record=out(apply, 1), latent=out(latent))
    g.add('SaveImage', images=out(g.add('TestDecode', latent=out(record))), filename_prefix='guided')
    g.add('SaveImage', images=out(record, 1), filename_prefix='record')
    return g

def ran(server, g):
    "The outputs of a workflow that was posted"
    key = server.asked('/prompt', dict(prompt=g))['prompt_id']
    done = server.wait(lambda: server.asked(f'/history/{key}'))[key]
    assert done['status']['status_str'] == 'success', done['status']
    return [i for o in done['outputs'].values() for i in o.get('images', ())]

def test_workflow_is_posted_and_read_back(server):
    g = workflow(server)
    pictures = {}
    for i in ran(server, g):
        view = f"/view?filename={i['filename']}&type={i['type']}&subfolder={i['subfolder']}"
        pictures[i['filename'].partition('_')[0]] = Image.open(io.BytesIO(server.get(view)))
    assert {k: v.size for k, v in pictures.items()} == dict(guided=(8, 8), record=(640, 420))
    # the image has the workflow that made it
    assert json.loads(pictures['guided'].text['prompt']) == g

def test_route(server):
    ask = lambda text: server.asked('/cf_guidance/curve', dict(curve='expression', values=dict(text=text)))
    got = ask('linear(6, 1)')
    assert len(got['values']) == 50 and got['values'][0] == 6. and got['values'][-1] == 1.
    assert 'poss' in ask('7.5*poss')['error']

def test_help_pages(server):
    for name in ('Schedule', 'Transform', 'Apply', 'Record', 'Guider'):
        text = server.get(f'/extensions/cf-guidance/docs/CFGuidance{name}.md').decode()
        assert text.startswith('# ') and len(text) > 300

def test_nodes_tell_their_inputs(server):
    known = server.asked('/object_info/CFGuidanceTransform')['CFGuidanceTransform']
    rules = known['input']['required']['rule'][1]['options']
    apg = next(o for o in rules if o['key'] == 'apg')['inputs']['required']
    assert apg['g'][0] == 'FLOAT,GUIDANCE_SCHEDULE' and apg['form'][0] == 'COMBO'

FLOWS = sorted((Path(__file__).parents[2]/'tools/comfy/example_workflows').glob('*.json'))

@pytest.mark.parametrize('file', FLOWS, ids=lambda f: f.stem)
def test_example_workflows(server, file):
    "Every node of an example is one that this ComfyUI has, with the inputs that are connected, and it has a picture"
    flow, known = json.loads(file.read_text()), server.asked('/object_info')
    for node in flow['nodes']:
        asked = known[node['type']]['input']
        names = {*asked.get('required', ()), *asked.get('optional', ())}
        for i in node.get('inputs', ()): assert i['name'].partition('.')[0] in names, (node['type'], i['name'])
    assert {'CFGuidanceSchedule'} <= {n['type'] for n in flow['nodes']}
    assert Image.open(file.with_suffix('.jpg')).width > 800
    assert file.stem in {f for flows in server.asked('/workflow_templates').values() for f in flows}
