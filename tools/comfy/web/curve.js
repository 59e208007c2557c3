// Draws the curve of a node `Guidance schedule` on the node; the numbers come from the server
import { app } from '../../scripts/app.js'
import { api } from '../../scripts/api.js'

const WIDE = 220, HIGH = 70, SVG = 'http://www.w3.org/2000/svg'

function told(node) {
  const all = Object.fromEntries((node.widgets ?? []).map(w => [w.name, w.value]))
  const values = {}
  for (const [name, val] of Object.entries(all))
    if (name.startsWith('curve.')) values[name.slice('curve.'.length)] = val
  return { curve: all.curve, values }
}

function path(vals) {
  const low = Math.min(...vals), high = Math.max(...vals), span = high - low || 1
  const place = (v, k) => [4 + k / (vals.length - 1) * (WIDE - 8), HIGH - 4 - (v - low) / span * (HIGH - 8)]
  return 'M' + vals.map((v, k) => place(v, k).map(c => c.toFixed(1)).join(' ')).join('L')
}

function element(name, attributes) {
  const el = document.createElementNS(SVG, name)
  for (const [k, v] of Object.entries(attributes)) el.setAttribute(k, v)
  return el
}

function show(box, got) {
  box.replaceChildren()
  const note = document.createElement('div')
  note.className = got.error ? 'cf-guidance-error' : 'cf-guidance-ends'
  note.style.cssText = `font: 11px sans-serif; white-space: normal; color: ${got.error ? '#e66' : '#999'}`
  if (got.error) note.textContent = got.error
  else {
    const svg = element('svg', { viewBox: `0 0 ${WIDE} ${HIGH}`, width: '100%', height: HIGH, preserveAspectRatio: 'none' })
    svg.append(element('path', { d: path(got.values), fill: 'none', stroke: '#4aa3df', 'stroke-width': 2 }))
    box.append(svg)
    const round = v => Number(v.toPrecision(4))
    const [first, last] = [got.values[0], got.values.at(-1)], low = Math.min(...got.values), high = Math.max(...got.values)
    const beyond = low < Math.min(first, last) || high > Math.max(first, last)
    note.textContent = `${round(first)} to ${round(last)}` + (beyond ? `, between ${round(low)} and ${round(high)}` : '')
    if (low === high) note.textContent = `${round(got.values[0])} at every step`
  }
  box.append(note)
}

async function answer(asked) {
  const body = JSON.stringify(asked), headers = { 'Content-Type': 'application/json' }
  const res = await api.fetchApi('/cf_guidance/curve', { method: 'POST', body, headers })
  return res.ok ? await res.json() : { error: `the server says ${res.status}` }
}

app.registerExtension({
  name: 'cf_guidance.curve',
  nodeCreated(node) {
    if (node.comfyClass !== 'CFGuidanceSchedule') return
    const box = document.createElement('div')
    box.className = 'cf-guidance-curve'
    const widget = node.addDOMWidget('curve_picture', 'cf_guidance_curve', box, { serialize: false, getMinHeight: () => HIGH + 30 })
    widget.serialize = false              // neither in the prompt nor in a saved workflow
    let last, gone = false
    const removed = node.onRemoved
    node.onRemoved = function (...args) { gone = true; return removed?.apply(this, args) }
    const look = async () => {
      if (gone) return
      const asked = told(node), text = JSON.stringify(asked)
      if (text !== last && asked.curve && !['CURVE', 'SIGMAS'].includes(asked.curve)) {
        last = text
        try { show(box, await answer(asked)) } catch (e) { show(box, { error: String(e) }) }
      } else if (text !== last) { last = text; box.replaceChildren() }
      setTimeout(look, 200)
    }
    look()
  }
})
