"The pack in ComfyUI's pages: the curve that a node draws"
import os
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
    page.wait_for_function("() => document.querySelector('.cf-guidance-ends')?.textContent.startsWith('9 to 0.15')")
    if shots := os.environ.get('COMFY_SHOTS'):
        page.evaluate('() => { window.app.canvas.ds.scale = 1.6; window.app.canvas.ds.offset = [-60, -60]; window.app.graph.setDirtyCanvas(true, true) }')
        page.wait_for_timeout(600)
        page.screenshot(path=str(Path(shots)/'schedule.png'))
    page.evaluate(SET, ['curve', 'expression'])
    page.evaluate(SET, ['curve.text', '7.5*poss'])
    page.wait_for_function("() => document.querySelector('.cf-guidance-error')?.textContent.includes('poss')")
    page.close()
