'use strict';
/* Two codecs side by side under one divider, at equal bytes, with one zoom for both. */
(() => {
  const {byId, data, fill} = report;
  const stage = byId('stage');
  if (!stage) return;
  const GAIN = 8;
  const MAX_ZOOM = 16;
  const sides = ['left', 'right'];
  const images = Object.keys(data.choices);
  const names = Object.fromEntries([['original', 'Original'], ...data.codecs.map((c) => [c.id, c.name])]);
  const view = {split: 0.5, zoom: 1, x: 0, y: 0, difference: false, held: false};
  const pointers = new Map();
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const number = (value, digits) => value.toLocaleString('en', {minimumFractionDigits: digits, maximumFractionDigits: digits});
  const image = () => byId('view-image').value;
  const level = () => document.querySelector('input[name=level]:checked').value;
  const choice = (side) => data.choices[image()][level()][byId(side).value];

  /* What a side shows: [picture key, bytes, bpp, operating point, PSNR and the other qualities]; the original has a key only. */
  function shown(side) {
    const found = view.held ? null : choice(side);
    return found || [data.originals[image()]];
  }

  function loaded(key) {
    const picture = new Image();
    picture.src = data.pictures[key];
    return picture.decode().then(() => picture);
  }

  function pixels(picture) {
    const canvas = new OffscreenCanvas(picture.naturalWidth, picture.naturalHeight);
    const context = canvas.getContext('2d', {willReadFrequently: true});
    context.drawImage(picture, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  }

  /* Mean absolute error over RGB, brighter by GAIN, on a ramp from black over orange to white. */
  async function paintDifference(canvas, key) {
    const [a, b] = (await Promise.all([data.originals[image()], key].map(loaded))).map(pixels);
    const out = new ImageData(a.width, a.height);
    for (let i = 0; i < a.data.length; i += 4) {
      const sum = Math.abs(a.data[i] - b.data[i]) + Math.abs(a.data[i + 1] - b.data[i + 1]) + Math.abs(a.data[i + 2] - b.data[i + 2]);
      const heat = Math.min(255, sum * GAIN / 3);
      out.data.set([Math.min(255, 2 * heat), heat, Math.max(0, 2 * heat - 255), 255], i);
    }
    canvas.width = a.width;
    canvas.height = a.height;
    canvas.getContext('2d').putImageData(out, 0, 0);
  }

  function paint(side) {
    const pane = byId(`pane-${side}`);
    const [picture, canvas] = [pane.querySelector('img'), pane.querySelector('canvas')];
    const [key] = shown(side);
    const name = names[view.held ? 'original' : byId(side).value];
    picture.src = data.pictures[key];
    picture.alt = `${image()}, ${name}`;
    picture.hidden = view.difference;
    canvas.hidden = !view.difference;
    if (view.difference) paintDifference(canvas, key);
    byId(`tag-${side}`).textContent = view.difference && !view.held ? `${name}: error` : name;
  }

  function row(term, value) {
    const [dt, dd] = [document.createElement('dt'), document.createElement('dd')];
    dt.textContent = term;
    dd.textContent = value;
    return [dt, dd];
  }

  /* The number of a file, or why it has none. */
  function quality({key, digits, without}, value) {
    if (value === null) return without || '–';
    return `${number(value, digits).replace('-', '−')}${key === 'psnr' ? ' dB' : ''}`;
  }

  function caption(side) {
    const codec = byId(side).value;
    const found = choice(side);
    const title = document.createElement('p');
    title.className = 'caption-title';
    title.textContent = names[codec];
    const list = document.createElement('dl');
    byId(`caption-${side}`).replaceChildren(title, list);
    if (!found) return list.append(...row('What', 'the uncompressed image'));
    const [, bytes, bpp, at, ...values] = found;
    const knob = data.codecs.find((c) => c.id === codec).knob;
    const off = bpp / Number(level()) - 1;
    const far = Math.abs(off) > 0.15 ? ` (${off > 0 ? '+' : '−'}${number(100 * Math.abs(off), 0)} % off target)` : '';
    return list.append(
      ...row('File', `${number(bytes, 0)} bytes`), ...row('Rate', `${number(bpp, 3)} bpp${far}`),
      ...data.qualities.flatMap((q, i) => row(q.name, quality(q, values[i]))), ...row('Setting', `${knob} ${at}`),
    );
  }

  function verdict() {
    const [a, b] = sides.map(choice);
    if (!a || !b) return '';
    const [left, right] = sides.map((side) => names[byId(side).value]);
    const bytes = b[1] / a[1] - 1;
    const gain = b[4] - a[4];
    const size = Math.abs(bytes) < 0.005 ? 'the same number of bytes as' : `${number(100 * Math.abs(bytes), 0)} % ${bytes < 0 ? 'fewer' : 'more'} bytes than`;
    const quality = Math.abs(gain) < 0.005 ? 'has the same PSNR' : `is ${number(Math.abs(gain), 2)} dB ${gain < 0 ? 'worse' : 'better'}`;
    return `${right} spends ${size} ${left} and ${quality}.`;
  }

  function update() {
    sides.forEach(paint);
    sides.forEach(caption);
    byId('verdict').textContent = verdict();
    byId('difference').setAttribute('aria-pressed', view.difference);
  }

  function place() {
    const {width, height} = stage.getBoundingClientRect();
    view.x = clamp(view.x, width * (1 - view.zoom), 0);
    view.y = clamp(view.y, height * (1 - view.zoom), 0);
    const transform = `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;
    stage.querySelectorAll('.pane > *').forEach((element) => { element.style.transform = transform; });
    stage.style.setProperty('--split', `${100 * view.split}%`);
    stage.classList.toggle('zoomed', view.zoom > 1);
    const natural = byId('pane-left').querySelector('img').naturalWidth || width;
    stage.classList.toggle('crisp', view.zoom * width / natural >= 5);
    byId('split').value = Math.round(100 * view.split);
    byId('zoom').textContent = `${number(view.zoom, view.zoom % 1 ? 1 : 0)}×`;
  }

  function divide(split) {
    view.split = clamp(split, 0, 1);
    place();
  }

  /* Keeps the point (px, py) of the stage under the finger. */
  function zoomTo(zoom, px = stage.clientWidth / 2, py = stage.clientHeight / 2) {
    const next = clamp(zoom, 1, MAX_ZOOM);
    view.x = px - (px - view.x) * next / view.zoom;
    view.y = py - (py - view.y) * next / view.zoom;
    view.zoom = next;
    place();
  }

  function pan(dx, dy) {
    view.x += dx;
    view.y += dy;
    place();
  }

  function hold(held) {
    if (view.held === held) return;
    view.held = held;
    sides.forEach(paint);
  }

  function step(by) {
    const select = byId('view-image');
    select.selectedIndex = (select.selectedIndex + by + images.length) % images.length;
    changeImage();
  }

  function toggleDifference() {
    view.difference = !view.difference;
    update();
  }

  /* Levels that the chosen image has; the choice of level is kept where possible. */
  function changeImage() {
    const had = document.querySelector('input[name=level]:checked')?.value;
    const levels = Object.keys(data.choices[image()]).sort((a, b) => a - b);
    const wanted = levels.includes(had) ? had : levels.includes('0.4') ? '0.4' : levels[0];
    byId('levels').replaceChildren(...levels.map((value) => {
      const label = document.createElement('label');
      const input = Object.assign(document.createElement('input'), {type: 'radio', name: 'level', value, checked: value === wanted});
      const text = document.createElement('span');
      text.textContent = value;
      input.addEventListener('change', update);
      label.append(input, text);
      return label;
    }));
    loaded(data.originals[image()]).then((picture) => {
      stage.style.setProperty('--ratio', picture.naturalWidth / picture.naturalHeight);
      place();
    });
    update();
  }

  function at(event) {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  function down(event) {
    if (event.button) return;
    const [x] = at(event);
    const near = Math.abs(x - view.split * stage.clientWidth) < 28;
    pointers.set(event.pointerId, {at: at(event), divides: near || view.zoom === 1});
    stage.setPointerCapture(event.pointerId);
    if (view.zoom === 1 && event.pointerType === 'mouse') divide(x / stage.clientWidth);
  }

  function move(event) {
    const pointer = pointers.get(event.pointerId);
    if (!pointer) return;
    const [before, now] = [pointer.at, at(event)];
    const other = [...pointers.values()].find((p) => p !== pointer);
    pointer.at = now;
    if (other) {
      const ratio = Math.hypot(now[0] - other.at[0], now[1] - other.at[1]) / Math.max(1, Math.hypot(before[0] - other.at[0], before[1] - other.at[1]));
      zoomTo(view.zoom * ratio, (now[0] + other.at[0]) / 2, (now[1] + other.at[1]) / 2);
    } else if (pointer.divides) divide(now[0] / stage.clientWidth);
    else pan(now[0] - before[0], now[1] - before[1]);
  }

  function wheel(event) {
    if (document.activeElement !== stage && !event.ctrlKey) return;  // The page scrolls.
    event.preventDefault();
    zoomTo(view.zoom * Math.exp(-event.deltaY * 0.002), ...at(event));
  }

  const keys = {
    '+': () => zoomTo(view.zoom * 1.5), '=': () => zoomTo(view.zoom * 1.5), '-': () => zoomTo(view.zoom / 1.5), 0: () => zoomTo(1),
    o: () => hold(true), d: toggleDifference, '[': () => step(-1), ']': () => step(1),
  };
  const arrows = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [dx, dy] = arrows[event.key] || [];
    if (dx !== undefined && event.shiftKey) pan(-40 * dx, -40 * dy);
    else if (dx) divide(view.split + 0.02 * dx);
    else if (keys[event.key.toLowerCase()]) keys[event.key.toLowerCase()]();
    else return;
    event.preventDefault();
  }

  fill(byId('view-image'), images.map((name) => [name, name]));
  const present = new Set(Object.values(data.choices).flatMap((levels) => Object.values(levels)).flatMap(Object.keys));
  const options = data.codecs.filter((c) => present.has(c.id));
  sides.forEach((side) => {
    fill(byId(side), [...options.map((c) => [c.id, c.name]), ['original', 'Original']]);
    byId(side).addEventListener('change', update);
  });
  byId('left').value = (options.find((c) => c.id === 'jpeg') || options[0]).id;
  byId('right').value = (options.filter((c) => c.learned).pop() || options[options.length - 1]).id;
  byId('view-image').addEventListener('change', changeImage);
  byId('previous').addEventListener('click', () => step(-1));
  byId('next').addEventListener('click', () => step(1));
  byId('split').addEventListener('input', (event) => divide(event.target.value / 100));
  byId('in').addEventListener('click', () => zoomTo(view.zoom * 1.5));
  byId('out').addEventListener('click', () => zoomTo(view.zoom / 1.5));
  byId('fit').addEventListener('click', () => zoomTo(1));
  byId('difference').addEventListener('click', toggleDifference);
  byId('hold').addEventListener('pointerdown', () => hold(true));
  byId('hold').addEventListener('keydown', (event) => { if (event.key === ' ' || event.key === 'Enter') hold(true); });
  ['pointerup', 'pointercancel', 'blur', 'keyup'].forEach((type) => addEventListener(type, () => hold(false), true));
  stage.addEventListener('pointerdown', down);
  stage.addEventListener('pointermove', move);
  ['pointerup', 'pointercancel'].forEach((type) => stage.addEventListener(type, (event) => pointers.delete(event.pointerId)));
  stage.addEventListener('wheel', wheel, {passive: false});
  stage.addEventListener('keydown', key);
  stage.addEventListener('dragstart', (event) => event.preventDefault());
  new ResizeObserver(place).observe(stage);
  changeImage();
})();
