'use strict';
/* Shows the BD-rates of one quality at a time; without scripts all of them stand below each other. */
(() => {
  const inputs = [...document.querySelectorAll('input[name=bd-metric]')];
  const panels = document.querySelectorAll('[data-metric]');

  function update() {
    const chosen = inputs.find((input) => input.checked).value;
    panels.forEach((panel) => { panel.hidden = panel.dataset.metric !== chosen; });
  }

  inputs.forEach((input) => input.addEventListener('change', update));
  update();
})();
