"The pack in ComfyUI's pages: the curve that a node draws, and the example workflows"
import json
from pathlib import Path

def opened(browser, server):
    page = browser.new_page(viewport=dict(width=1400, height=900))
    page.goto(server.url)
    page.wait_for_function('() => window.app?.graph && window.LiteGraph?.registered_node_types?.CFGuidanceSchedule')
    return page

ADD = """name => {
    window.app.graph.clear()
    const node = window.LiteGraph.createNode(name)
    node.pos = [200, 150]
    window.app.graph.add(node)
    window.node = node
    return node.widgets.map(w => [w.name, w.value])
}"""
SET = """([name, val]) => {
    const w = window.node.widgets.find(w => w.name === name)
    w.value = val
    w.callback?.(val)
    return window.node.widgets.map(w => w.name)
}"""

def test_curve_on_the_node(browser, server):
    page = opened(browser, server)
    first = dict(page.evaluate(ADD, 'CFGuidanceSchedule'))
    assert 'curve' in first, first
    page.wait_for_selector('.cf-guidance-curve path', state='attached')
    names = page.evaluate(SET, ['curve', 'cosine'])
    assert 'curve.max_val' in names and 'curve.k_decay' in names, names
    page.evaluate(SET, ['curve.max_val', 9.])
    page.wait_for_function("() => document.querySelector('.cf-guidance-ends')?.textContent === '9 to 0.15'")
    page.evaluate(SET, ['curve', 'expression'])
    page.evaluate(SET, ['curve.text', '7.5*poss'])
    page.wait_for_function("() => document.querySelector('.cf-guidance-error')?.textContent.includes('poss')")
    page.close()

EXAMPLES = sorted((Path(__file__).parents[2]/'tools/comfy/example_workflows').glob('*.json'))
WANT = dict(sd15=('cosine', 'curve.max_val', 10.),
            sdxl=('expression', 'curve.text', 'constant(12).within((.28, 5.42))'),
            flux_true_cfg=('linear', 'curve.start', 4.5), wan=('linear', 'curve.end', 3.))

def test_examples_are_opened(browser, server):
    "A saved workflow has its numbers again when it is opened, and says them to the server"
    page = opened(browser, server)
    for f in EXAMPLES:
        prompt = page.evaluate("""async flow => {
            await window.app.loadGraphData(flow)
            return (await window.app.graphToPrompt()).output
        }""", json.loads(f.read_text()))
        (sched,) = [n['inputs'] for n in prompt.values() if n['class_type'] == 'CFGuidanceSchedule']
        curve, name, val = WANT[f.stem]
        assert sched['curve'] == curve and sched[name] == val, (f.stem, sched)
        assert len(prompt) == len(json.loads(f.read_text())['nodes'])
        if f.stem == 'sdxl':
            (rule,) = [n['inputs'] for n in prompt.values() if n['class_type'] == 'CFGuidanceTransform']
            assert (rule['rule'], rule['rule.r'], rule['rule.beta'], rule['rule.form']) == ('apg', 15., -.5, 'paper')
            assert isinstance(rule['rule.g'], list)
    page.close()
