// Which experts each token of an answer used: an answer's tokens as something to point at or to walk through with the
// arrow keys, and a strip below with one small map a token (a row a layer, a column an expert). The token at hand marks
// its experts on the large map, by the callback `show(token)`; null: none is at hand.
'use strict';

const FRAME_PX = 34, FRAME_GAP_PX = 3, FRAME_ROW_PX = 2, STRIP_TOKENS_MAX = 2048, DETAIL_LAYERS_MAX = 8;

// "experts": {"1": [3, 8], …} of all tokens of a piece of text, one set a layer.
function expertsOf(tokens) {
  const layers = new Map();
  for (const token of tokens) {
    for (const [layer, experts] of Object.entries(token.experts)) {
      if (!layers.has(Number(layer))) layers.set(Number(layer), new Set());
      experts.forEach(expert => layers.get(Number(layer)).add(expert));
    }
  }
  return layers;
}

class AnswerTokens {
  // holder: the element that gets the text; experts: how many a layer has; show: see above.
  constructor(holder, experts, show) {
    this.experts = Math.max(1, experts);
    this.show = show;
    this.tokens = [];  // {text, layers: Map of sets, span}
    this.current = -1;
    this.list = document.createElement('span');
    this.list.className = 'tokens';
    this.list.tabIndex = 0;
    this.list.setAttribute('role', 'listbox');
    this.list.setAttribute('aria-label', 'The answer by tokens: arrow keys show the experts of each, Escape leaves');
    this.strip = document.createElement('canvas');
    this.strip.className = 'strip';
    this.strip.hidden = true;
    this.strip.setAttribute('aria-hidden', 'true');
    this.frames = document.createElement('div');  // many layers make tall frames: they scroll, the text stays in view
    this.frames.className = 'frames';
    this.frames.append(this.strip);
    holder.append(this.list, this.frames);
    this.list.addEventListener('keydown', event => this.key(event));
    this.list.addEventListener('focus', () => this.select(this.current < 0 ? 0 : this.current));
    this.list.addEventListener('blur', () => this.select(-1));
    this.list.addEventListener('pointerover',
                               event => this.select(this.tokens.findIndex(t => t.span === event.target)));
    this.list.addEventListener('pointerleave', () => this.select(-1));
    this.strip.addEventListener('pointermove', event => this.select(this.frameAt(event)));
    this.strip.addEventListener('pointerleave', () => this.select(-1));
  }

  // A piece of the answer and the tokens that it was made of: usually one. Without tokens it is text and no more.
  add(text, tokens) {
    if (!text) return;
    const span = document.createElement('span');
    span.textContent = text;
    this.list.append(span);
    if (!tokens.length) return;
    span.className = 'token';
    span.id = `token-${AnswerTokens.ids++}`;
    span.setAttribute('role', 'option');
    this.tokens.push({text, layers: expertsOf(tokens), span});
    this.draw();
    this.frames.scrollTop = this.frames.scrollHeight;
  }

  key(event) {
    const far = this.tokens.length;
    const moves = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -far, End: far};
    if (event.key === 'Escape') { this.list.blur(); return; }
    if (!(event.key in moves) || !this.tokens.length) return;
    event.preventDefault();
    this.select(Math.max(0, Math.min(this.tokens.length - 1, this.current + moves[event.key])));
  }

  select(index) {
    const token = this.tokens[index];
    if (this.tokens[this.current]) this.tokens[this.current].span.removeAttribute('aria-selected');
    this.current = token ? index : -1;
    if (token) AnswerTokens.active = this;
    if (token) {
      token.span.setAttribute('aria-selected', 'true');
      this.list.setAttribute('aria-activedescendant', token.span.id);
    } else {
      this.list.removeAttribute('aria-activedescendant');
    }
    this.draw();
    this.show(token || null);
  }

  // In frames; those of the last tokens where there are very many.
  get first() { return Math.max(0, this.tokens.length - STRIP_TOKENS_MAX); }
  get perRow() {
    return Math.max(1, Math.floor((this.list.parentElement.clientWidth || 300) / (FRAME_PX + FRAME_GAP_PX)));
  }
  get frameHeight() { return FRAME_ROW_PX * (this.tokens[0] ? this.tokens[0].layers.size : 1); }

  frameAt(event) {
    const box = this.strip.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / (FRAME_PX + FRAME_GAP_PX));
    const row = Math.floor((event.clientY - box.top) / (this.frameHeight + FRAME_GAP_PX));
    return column < this.perRow ? this.first + row * this.perRow + column : -1;
  }

  draw() {
    const shown = this.tokens.slice(this.first), perRow = this.perRow, height = this.frameHeight + FRAME_GAP_PX;
    if (!shown.length) return;
    const width = perRow * (FRAME_PX + FRAME_GAP_PX), tall = Math.ceil(shown.length / perRow) * height;
    const scale = window.devicePixelRatio || 1, style = getComputedStyle(document.documentElement);
    this.strip.hidden = false;
    this.strip.width = width * scale; this.strip.height = tall * scale;
    this.strip.style.width = `${width}px`; this.strip.style.height = `${tall}px`;
    this.strip.dataset.frames = shown.length;
    const ink = this.strip.getContext('2d'), dot = Math.max(1, FRAME_PX / this.experts);
    ink.scale(scale, scale);
    shown.forEach((token, i) => {
      const left = (i % perRow) * (FRAME_PX + FRAME_GAP_PX), top = Math.floor(i / perRow) * height;
      const selected = this.first + i === this.current;
      ink.fillStyle = `rgba(${style.getPropertyValue('--heat').trim()}, ${selected ? 0.3 : 0.1})`;
      ink.fillRect(left, top, FRAME_PX, this.frameHeight);
      ink.fillStyle = style.getPropertyValue(selected ? '--mark' : '--accent').trim();
      [...token.layers.values()].forEach((experts, row) => {
        for (const expert of experts) {
          ink.fillRect(left + expert * FRAME_PX / this.experts, top + row * FRAME_ROW_PX, dot, FRAME_ROW_PX);
        }
      });
    });
  }
}
AnswerTokens.ids = 0;
AnswerTokens.active = null;  // the answer with a token at hand, last

// One sentence on a token.
function describeToken(token) {
  const layers = [...token.layers].map(([layer, experts]) => `layer ${layer}: ${[...experts].join(', ')}`);
  const more = layers.length - DETAIL_LAYERS_MAX;
  return `Token “${token.text}” came from experts of ${layers.slice(0, DETAIL_LAYERS_MAX).join('; ')}` +
      (more > 0 ? `; and ${more} more layers.` : '.');
}
