// The console of a gateway: polls `experts` for the state of the cluster and draws it; the chat box is an ordinary
// client of v1/chat/completions. No outside resource, nothing kept beyond the page.
'use strict';

const POLL_MS = 1000, HISTORY_S = 60, CELL_MAX = 22, CELL_MIN = 3, ROW_PX = 14, LABEL_PX = 30;
const $ = id => document.getElementById(id);
const history = [];  // {time (s), snapshot}
let selected = null;  // {layer (index), expert}
let marked = null;  // the token of an answer whose experts are marked (tokens.js)

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function rate(value) {
  return value >= 100 ? Math.round(value).toLocaleString('en') : value.toFixed(1);
}

// Growth of a counter; a service that started anew counts from zero.
const growth = (before, now) => now >= before ? now - before : now;

function earlier(seconds) {
  const now = history[history.length - 1];
  return history.find(entry => now.time - entry.time <= seconds) || history[0];
}

// [layers][experts]: tokens of the chosen period.
function tokensOfPeriod() {
  const now = history[history.length - 1].snapshot, seconds = Number($('period').value);
  const before = seconds === 0 ? null : earlier(seconds).snapshot;
  return now.layers.map((layer, i) => layer.tokens.map(
      (count, e) => before === null || !before.layers[i] ? count : growth(before.layers[i].tokens[e] || 0, count)));
}

function node(name, state, lines) {
  const made = element('div', 'node');
  made.dataset.state = state;
  made.dataset.name = name;
  made.append(element('b', '', name));
  for (const line of lines) made.append(element('small', '', line));
  made.setAttribute('aria-label', `${name}: ${state}. ${lines.join(', ')}`);
  return made;
}

function drawCluster(snapshot) {
  const before = earlier(5), seconds = Math.max(1e-3, history[history.length - 1].time - before.time);
  $('gateway').replaceChildren(node('gateway', 'up', [location.host]));
  $('routers').replaceChildren(...snapshot.attention_services.map((router, i) => node(
      router.name || `router-${i}`, !router.up ? 'down' : router.draining ? 'draining' : 'up',
      router.up ? [router.address, `${router.running} running, ${router.queued} queued`,
                   `KV ${Math.round(100 * router.kv_blocks_used / Math.max(1, router.kv_blocks_total))}%`]
                : [router.address, router.error || 'does not answer'])));
  const shards = snapshot.shards.map(shard => {
    const was = before.snapshot.shards.find(s => s.name === shard.name);
    const rows = growth(was ? was.rows : 0, shard.rows) / seconds;
    const state = shard.healthy ? 'up' : shard.avoided ? 'avoided' : 'down';
    const now = {up: `${rate(rows)} rows/s`, avoided: 'avoided: slow or late', down: 'does not answer'}[state];
    return node(shard.name, state, [shard.address, `${shard.experts} experts`, now]);
  });
  $('shards').replaceChildren(...(shards.length ? shards : [node('in the attention service', 'up', ['experts'])]));
}

function figure(name, value) {
  const made = element('div', 'figure');
  made.append(element('b', '', value), element('span', 'dim', name));
  return made;
}

function drawFigures(snapshot) {
  const before = earlier(5), now = history[history.length - 1], seconds = Math.max(1e-3, now.time - before.time);
  const sum = key => snapshot.attention_services.reduce((total, router) => total + (router[key] || 0), 0);
  const first = snapshot.layers[0], was = before.snapshot.layers[0];
  const total = layer => layer ? layer.tokens.reduce((a, b) => a + b, 0) : 0;
  const perToken = snapshot.experts_per_token || 1;
  const tokens = now === before ? 0 : growth(total(was), total(first)) / perToken / seconds;
  const imbalances = tokensOfPeriod().map(imbalance).filter(value => value > 0);
  $('figures').replaceChildren(
      figure('tokens/s computed', rate(tokens)), figure('running', sum('running')), figure('queued', sum('queued')),
      figure('shards up', `${snapshot.shards.filter(s => s.healthy || s.avoided).length} of ${snapshot.shards.length}`),
      figure('worst layer, max/mean', imbalances.length ? Math.max(...imbalances).toFixed(2) : '–'),
      figure('placement epoch', snapshot.placement_epoch));
}

function imbalance(tokens) {
  const total = tokens.reduce((a, b) => a + b, 0);
  return total === 0 ? 0 : Math.max(...tokens) * tokens.length / total;
}

function heatColour() {
  return getComputedStyle(document.documentElement).getPropertyValue('--heat').trim();
}

function drawMap() {
  if (!history.length) return;
  const now = history[history.length - 1].snapshot, tokens = tokensOfPeriod();
  const canvas = $('map').querySelector('canvas'), experts = Math.max(1, ...tokens.map(layer => layer.length));
  const cell = Math.max(CELL_MIN, Math.min(CELL_MAX, Math.floor(($('map').clientWidth - LABEL_PX) / experts)));
  const width = LABEL_PX + cell * experts, height = ROW_PX * tokens.length, scale = window.devicePixelRatio || 1;
  canvas.width = width * scale; canvas.height = height * scale;
  canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
  const ink = canvas.getContext('2d'), style = getComputedStyle(document.body), colour = heatColour();
  ink.scale(scale, scale);
  ink.font = '11px system-ui, sans-serif';
  tokens.forEach((layer, i) => {
    const top = i * ROW_PX, largest = Math.max(1, ...layer);
    ink.fillStyle = style.color;
    ink.fillText(String(now.layers[i].layer), 2, top + ROW_PX - 3);
    layer.forEach((count, e) => {
      ink.fillStyle = `rgba(${colour}, ${count === 0 ? 0.04 : 0.12 + 0.88 * count / largest})`;
      ink.fillRect(LABEL_PX + e * cell, top + 1, cell - (cell > 5 ? 1 : 0), ROW_PX - 2);
      if (selected && selected.layer === i && selected.expert === e) {
        ink.strokeStyle = style.color;
        ink.lineWidth = 2;
        ink.strokeRect(LABEL_PX + e * cell + 1, top + 2, cell - 2, ROW_PX - 4);
      }
    });
  });
  if (marked) drawMarks(ink, now, cell, style);
  canvas.dataset.marked = !marked ? '' :
      [...marked.layers].map(([layer, experts]) => `${layer}:${[...experts].join('+')}`).join(',');
  canvas.dataset.cell = cell;
  canvas.dataset.busiest = tokens.map(layer => Math.max(0, ...layer)).join(',');
  describe(now, tokens);
}

// Rings around the experts of the token at hand.
function drawMarks(ink, now, cell, style) {
  ink.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue('--mark').trim() || style.color;
  ink.lineWidth = 2;
  now.layers.forEach((layer, i) => {
    for (const expert of marked.layers.get(layer.layer) || []) {
      ink.strokeRect(LABEL_PX + expert * cell + 1, i * ROW_PX + 2, Math.max(1, cell - 3), ROW_PX - 4);
    }
  });
}

function describe(now, tokens) {
  if (marked) {
    $('detail').textContent = describeToken(marked);
    return;
  }
  if (!selected || !tokens[selected.layer]) {
    const sum = tokens.flat().reduce((a, b) => a + b, 0);
    $('detail').textContent =
        sum === 0 ? 'No tokens in this period.' : `${sum.toLocaleString('en')} choices of experts in this period.`;
    return;
  }
  const layer = now.layers[selected.layer], count = tokens[selected.layer][selected.expert] || 0;
  const total = tokens[selected.layer].reduce((a, b) => a + b, 0);
  const holders = now.shards.filter(shard => (shard.holdings || []).some(
      held => held.layer === layer.layer && held.experts.includes(selected.expert))).map(shard => shard.name);
  $('detail').textContent = `Layer ${layer.layer}, expert ${selected.expert}: ${count.toLocaleString('en')} tokens, ` +
      `${total ? (100 * count / total).toFixed(1) : 0}% of the layer` +
      (holders.length ? `, held by ${holders.join(', ')}` : '') + '.';
}

function select(layer, expert) {
  const tokens = history.length ? history[history.length - 1].snapshot.layers : [];
  if (!tokens.length) return;
  layer = Math.max(0, Math.min(tokens.length - 1, layer));
  if (marked) AnswerTokens.active.select(-1);  // who moves on the map has left the answer
  selected = {layer, expert: Math.max(0, Math.min(tokens[layer].tokens.length - 1, expert))};
  drawMap();
}

$('map').addEventListener('keydown', event => {
  const moves = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}, move = moves[event.key];
  if (event.key === 'Escape') { selected = null; drawMap(); }
  if (!move) return;
  event.preventDefault();
  select((selected ? selected.layer : 0) + (selected ? move[0] : 0),
         (selected ? selected.expert : 0) + (selected ? move[1] : 0));
});
for (const kind of ['pointermove', 'click']) {
  $('map').addEventListener(kind, event => {
    const canvas = $('map').querySelector('canvas'), box = canvas.getBoundingClientRect();
    const expert = Math.floor((event.clientX - box.left - LABEL_PX) / Number(canvas.dataset.cell || 1));
    if (expert >= 0) select(Math.floor((event.clientY - box.top) / ROW_PX), expert);
  });
}
$('period').addEventListener('change', drawMap);
window.addEventListener('resize', drawMap);
$('theme').addEventListener('click', () => {
  const dark = getComputedStyle(document.documentElement).getPropertyValue('--page').trim() === '#10141b';
  document.documentElement.dataset.theme = dark ? 'light' : 'dark';
  drawMap();
});

function authorization() {
  return $('key').value ? {Authorization: `Bearer ${$('key').value}`} : {};
}

async function poll() {
  try {
    const reply = await fetch('experts', {cache: 'no-store', headers: authorization()});
    if (reply.status === 401) throw new Error('this gateway asks for an API key (under the chat)');
    if (!reply.ok) throw new Error(`the gateway answers ${reply.status}`);
    const snapshot = await reply.json();
    history.push({time: performance.now() / 1000, snapshot});
    while (history.length > 2 && history[history.length - 1].time - history[0].time > HISTORY_S) history.shift();
    $('model').textContent = snapshot.model;
    const down = snapshot.shards.filter(shard => !shard.healthy && !shard.avoided).length;
    const avoided = snapshot.shards.filter(shard => shard.avoided).length;
    $('state').textContent = down ? `${down} of ${snapshot.shards.length} shards down` :
        avoided ? `live; ${avoided} of ${snapshot.shards.length} shards avoided` : 'live';
    drawCluster(snapshot); drawFigures(snapshot); drawMap();
  } catch (error) {
    $('state').textContent = `no news: ${error.message}`;
  }
  setTimeout(poll, POLL_MS);
}

const turns = [];  // the conversation so far, as the API takes it
let asking = null;  // AbortController of the answer under way

function addTurn(role, text, kind) {
  const turn = element('p', `turn ${kind || ''}`);
  turn.append(element('b', '', role), document.createTextNode(text));
  $('talk').append(turn);
  $('talk').scrollTop = $('talk').scrollHeight;
  return turn;
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = '';;) {
    const {value, done} = await reader.read();
    if (done) return;
    text += value;
    for (let end; (end = text.indexOf('\n\n')) >= 0; text = text.slice(end + 2)) {
      const line = text.slice(0, end);
      if (line.startsWith('data: ')) yield line.slice(6);
    }
  }
}

async function ask(question) {
  turns.push({role: 'user', content: question});
  addTurn('You', question);
  const turn = addTurn('Model', ''), begun = performance.now();
  const layers = history.length ? history[history.length - 1].snapshot.layers : [];
  const shown = new AnswerTokens(turn, Math.max(1, ...layers.map(layer => layer.tokens.length)),
                                 token => { marked = token; drawMap(); });
  let answer = '', tokens = 0, finished = false;
  asking = new AbortController();
  $('send').disabled = true; $('stop').disabled = false;
  try {
    const headers = {'Content-Type': 'application/json', ...authorization()};
    const body = JSON.stringify({
      model: history.length ? history[history.length - 1].snapshot.model : '', messages: turns, stream: true,
      max_tokens: 256, token_experts: true});
    const reply = await fetch('v1/chat/completions', {method: 'POST', headers, signal: asking.signal, body});
    if (!reply.ok) throw new Error((await reply.json()).error.message);
    for await (const data of events(reply.body)) {
      if (data === '[DONE]') { finished = true; break; }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      const choice = (chunk.choices || [])[0];
      if (!choice || !choice.delta || !choice.delta.content) continue;
      const behind = choice.token_experts || [];
      answer += choice.delta.content; tokens += behind.length || 1;
      shown.add(choice.delta.content, behind);
      $('talk').scrollTop = $('talk').scrollHeight;
      $('spent').textContent = `${rate(1000 * tokens / (performance.now() - begun))} tokens/s`;
    }
    if (!finished) throw new Error('the answer ended early');
  } catch (error) {
    if (error.name !== 'AbortError') addTurn('Error', error.message, 'error');
  }
  turns.push({role: 'assistant', content: answer || ' '});
  asking = null;
  $('send').disabled = false; $('stop').disabled = true;
}

$('chat').addEventListener('submit', event => {
  event.preventDefault();
  const question = $('question').value.trim() || $('question').placeholder;
  if (asking) return;
  $('question').value = '';
  ask(question);
});
$('question').addEventListener('keydown', event => {
  if (event.key === 'Enter' && !event.shiftKey) { event.preventDefault(); $('chat').requestSubmit(); }
});
$('stop').addEventListener('click', () => asking && asking.abort());
poll();
