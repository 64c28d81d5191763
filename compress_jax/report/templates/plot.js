'use strict';
/* The rate-distortion plot: metric, axis, image and codec switches over Plotly. */
(() => {
  const {byId, data, isDark, onTheme} = report;
  const plot = byId('plot');
  const narrow = matchMedia('(max-width: 700px)');
  const coarse = matchMedia('(pointer: coarse)');
  const LOG_TICKS = [0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2];
  const qualities = Object.fromEntries(data.qualities.map((q) => [q.key, q]));
  /* Numbers as people know them, from the scales that rise with quality. */
  const plain = {ms_ssim: (v) => 1 - 10 ** (-v / 10), lpips: (v) => 10 ** (-v / 10)};
  const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (codec) => (isDark() ? codec.dark : codec.light);

  function chip(box, item, checked) {
    const label = document.createElement('label');
    const input = document.createElement('input');
    const swatch = document.createElement('i');
    input.type = 'checkbox';
    input.checked = checked;
    input.addEventListener('change', draw);
    label.append(input, swatch, item.name);
    box.append(label);
    Object.assign(item, {input, swatch});
  }

  function shownCodecs() {
    const image = byId('plot-image').value;
    const curves = image ? data.images[image] : data.mean;
    return data.codecs.filter((c) => c.input.checked && curves[c.id])
      .map((c) => ({...c, curve: curves[c.id], colour: colour(c)}));
  }

  /* Published numbers are means over the suite, so they leave with the mean. */
  function shownPublished() {
    if (byId('plot-image').value) return [];
    return data.published.filter((p) => p.input.checked)
      .map((p) => ({...p, curve: p, colour: css('--soft'), dashed: true}));
  }

  function trace(item, metric) {
    const {curve} = item;
    const {name, unit, digits} = qualities[metric];
    const values = curve[metric].map((v) => (v === null ? '' : (plain[metric] || Number)(v).toFixed(digits)));
    const told = plain[metric] ? `${name} %{text}` : `${name} %{text}${unit}`;
    const where = item.dashed ? 'published' : `${item.knob} %{customdata}<br>`;
    return {
      x: curve.bpp, y: curve[metric], text: values, customdata: curve.at, name: item.name,
      mode: item.dashed ? 'lines' : 'lines+markers',
      line: {color: item.colour, width: item.learned ? 3 : 1.5, dash: item.dashed ? '6px,3px' : 'solid'},
      marker: {symbol: item.symbol, size: item.learned ? 9 : 7, color: item.colour},
      hovertemplate: `<b>${item.name}</b><br>${item.dashed ? 'published<br>' : where}` +
        `%{x:.3f} bpp<br>${told}<extra></extra>`,
    };
  }

  /* The rates of the learned codecs matter; the classical ones run on to the right. */
  function rateRange(items) {
    const main = items.filter((i) => i.learned);
    const rates = (main.length ? main : items).flatMap((i) => i.curve.bpp);
    return Math.min(2, 1.12 * Math.max(...rates, 0.2));
  }

  function endOf(curve, metric, right) {
    const last = curve.bpp.findLastIndex((bpp, i) => bpp <= right && curve[metric][i] !== null);
    if (last < 0) return null;
    const [x0, y0] = [curve.bpp[last], curve[metric][last]];
    const [x1, y1] = [curve.bpp[last + 1], curve[metric][last + 1]];
    return x1 > x0 && y1 != null ? y0 + (y1 - y0) * (right - x0) / (x1 - x0) : y0;
  }

  /* Names beside the right edge, pushed apart until none overlap. */
  function names(items, metric, right, [low, high], height) {
    const gap = 17 / height;
    const placed = items.map((item) => ({item, y: (endOf(item.curve, metric, right) - low) / (high - low)}))
      .filter((p) => p.y >= 0).sort((a, b) => a.y - b.y);
    for (let pass = 0; pass < 60; pass += 1) {
      for (let i = 1; i < placed.length; i += 1) {
        const short = gap - (placed[i].y - placed[i - 1].y);
        if (short > 0) { placed[i].y += short / 2; placed[i - 1].y -= short / 2; }
      }
    }
    return placed.map(({item, y}) => ({
      xref: 'paper', yref: 'paper', x: 1.01, y, xanchor: 'left', yanchor: 'middle', showarrow: false,
      text: item.learned ? `<b>${item.name}</b>` : item.name, font: {color: item.colour, size: 12},
    }));
  }

  function ranges(items, metric, log) {
    const right = rateRange(items);
    const seen = items.flatMap((i) => i.curve[metric].filter((v, k) => v !== null && i.curve.bpp[k] <= right));
    const ends = items.map((i) => endOf(i.curve, metric, right)).filter((v) => v !== null);
    const main = items.filter((i) => i.learned).flatMap((i) => i.curve[metric]).filter((v) => v !== null);
    const low = Math.min(...(main.length ? main : seen)) - 1;
    const high = Math.max(...ends, ...main, low + 2) + 0.8;
    const least = Math.min(...items.flatMap((i) => i.curve.bpp).filter((v) => v > 0), right);
    return {right, y: [low, high], x: log ? [Math.log10(Math.max(0.04, 0.85 * least)), Math.log10(right)] : [0, right]};
  }

  function draw() {
    const metric = chosen('metric');
    const log = chosen('axis') === 'log';
    const items = [...shownPublished(), ...shownCodecs().reverse()];
    const height = narrow.matches ? 380 : 500;
    const margin = {l: 46, r: narrow.matches ? 10 : 150, t: 12, b: 44};
    const range = items.length ? ranges(items, metric, log) : {right: 1, x: [0, 1], y: [20, 40]};
    const axis = {
      gridcolor: css('--line'), zeroline: false, linecolor: css('--soft'), tickcolor: css('--line'),
      fixedrange: coarse.matches, automargin: true,
    };
    Plotly.react(plot, items.map((item) => trace(item, metric)), {
      height, margin, showlegend: false, dragmode: coarse.matches ? false : 'zoom', hovermode: 'closest',
      paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
      font: {family: css('--font'), color: css('--ink'), size: 13},
      hoverlabel: {bgcolor: css('--raised'), bordercolor: css('--line'), font: {color: css('--ink')}, align: 'left'},
      xaxis: {...axis, type: log ? 'log' : 'linear', range: range.x, tickvals: log ? LOG_TICKS : undefined, title: {text: 'bits per pixel, whole file', standoff: 8}},
      yaxis: {...axis, range: range.y, title: {text: qualities[metric].axis, standoff: 6}},
      annotations: narrow.matches ? [] : names(items, metric, range.right, range.y, height - margin.t - margin.b),
    }, {displayModeBar: false, responsive: true});
    data.codecs.forEach((c) => c.swatch.style.setProperty('--swatch', colour(c)));
  }

  Object.keys(data.images).forEach((name) => byId('plot-image').add(new Option(name, name)));
  data.codecs.forEach((codec) => chip(byId('chips'), codec, codec.shown));
  data.published.forEach((p) => chip(byId('chips-published'), p, p.shown));
  document.querySelectorAll('input[name=metric], input[name=axis]').forEach((i) => i.addEventListener('change', draw));
  byId('plot-image').addEventListener('change', draw);
  narrow.addEventListener('change', draw);
  onTheme(draw);
  draw();
  /* Names stand where curves leave the first view, so they go when it is zoomed and come back with it. */
  plot.on('plotly_relayout', (change) => {
    if ('xaxis.range[0]' in change || 'yaxis.range[0]' in change) Plotly.relayout(plot, {annotations: []});
  });
  plot.on('plotly_doubleclick', () => setTimeout(draw));
})();
